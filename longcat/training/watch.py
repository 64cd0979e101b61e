"""What the launcher sees of the training processes while they run: events, and who stands still.

A process stands still if its heartbeat has not changed for `training.hang_timeout_s`, or for three times the longest pause
that it has made before. Some phases have no beat for a long time: `LONG` says which, and they may take `PATIENCE` times as
long. A process that was stopped by a signal is found in any phase. Those who wait in a collective wait for one who does not;
if all of them do, for the one that is behind.
"""

from __future__ import annotations

import signal
import socket
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import psutil

from longcat.errors import TrainingError
from longcat.processes.stacks import innermost, take_stacks
from longcat.training.beat import FOLDER, WANTED, Beat
from longcat.training.life import EventFollower, record_event, sentence
from longcat.training.regions import CHECK, CHECKPOINT, DATA, FINISH, FIRST_STEP, HELD_OUT, LOADING

LONG = {
    "outside of steps",
    *(of.removeprefix("longcat.") for of in (DATA, FIRST_STEP, CHECK, HELD_OUT, CHECKPOINT, LOADING, FINISH)),
}
PATIENCE = 10
STACKS = "stacks.txt"
_FAR_S = 6.0
"""Seconds that processes of other machines have to write their stacks down."""


class RankStands(TrainingError):  # noqa: N818  (a state, not a fault)
    """Training process that stands still; the message names it, what the others wait for, and where the stacks are."""


@dataclass
class _Seen:
    """What is known of a process."""

    beat: Beat | None = None
    still_s: float = 0.0
    longest_s: float = 0.0
    stopped_s: float = 0.0


class Watch:
    """Watches one attempt; `look` is called a few times per second."""

    def __init__(self, directory: Path, processes: int, hang_timeout_s: float) -> None:
        """Begin to watch, before the processes are started.

        Args:
            directory: of the run.
            processes: of the attempt, on all machines.
            hang_timeout_s: `training.hang_timeout_s`; 0 looks for events only.
        """
        self._directory, self._timeout_s = directory, hang_timeout_s
        self._events = EventFollower(directory)
        self._ranks = [_Seen() for _ in range(processes)]
        self._folder = directory / FOLDER
        if self._folder.is_dir():
            for old in self._folder.iterdir():
                old.unlink(missing_ok=True)
        # so many files take a while to read, on a shared disk
        self._pause_s = min(max(0.5, processes / 200), max(0.5, hang_timeout_s / 4))
        self._looked = time.monotonic()

    def look(self) -> None:
        """Warn of what has happened since the last look, and see who stands still.

        Raises:
            RankStands: a process stands still; those of this machine are ended.
        """
        for event in self._events.new():
            if said := sentence(event):
                warnings.warn(said, stacklevel=2)
        passed = time.monotonic() - self._looked
        if self._timeout_s and passed >= self._pause_s:
            self._looked = time.monotonic()
            # no more than that if this process itself was stopped meanwhile
            self._see(min(passed, 4 * self._pause_s))
            if late := self._late():
                self._end(late)

    def _see(self, passed_s: float) -> None:
        stopped = self._stopped()
        for rank, seen in enumerate(self._ranks):
            beat = Beat.read(self._folder / str(rank))
            seen.stopped_s = seen.stopped_s + passed_s if rank in stopped else 0.0
            if beat is None or (seen.beat is not None and beat.beats == seen.beat.beats):
                seen.still_s += passed_s
                continue
            if seen.beat is not None and not (seen.stopped_s or seen.beat.waits or _takes_long(seen.beat)):
                seen.longest_s = max(seen.longest_s, seen.still_s)
            seen.beat, seen.still_s = beat, 0.0

    def _stopped(self) -> set[int]:
        """The ranks of this machine that a signal has stopped, those included that have given no sign of life yet."""
        known = {process.pid: rank for rank, process in self._local().items()}
        found = set()
        for process in psutil.Process().children(recursive=True):
            try:
                if process.status() == psutil.STATUS_STOPPED:
                    found.add(known[process.pid] if process.pid in known else _rank_of(process))
            except (psutil.Error, OSError):
                continue
        return {rank for rank in found if rank is not None and rank < len(self._ranks)}

    def _local(self) -> dict[int, psutil.Process]:
        """The processes that are children of this one, or theirs."""
        here = socket.gethostname()[:64]
        pids = {seen.beat.pid: rank for rank, seen in enumerate(self._ranks) if seen.beat and seen.beat.host == here}
        if not pids:
            return {}
        return {pids[of.pid]: of for of in psutil.Process().children(recursive=True) if of.pid in pids}

    def _limit_s(self, seen: _Seen) -> float:
        if seen.beat is None or _takes_long(seen.beat):
            return PATIENCE * self._timeout_s
        return max(self._timeout_s, 3 * seen.longest_s)

    def _late(self) -> list[int]:
        """Return the ranks that others wait for, the likeliest first, if the limit of one of them is over."""
        stopped = [rank for rank, seen in enumerate(self._ranks) if seen.stopped_s >= self._timeout_s]
        if stopped:
            return stopped
        if all(seen.beat is None for seen in self._ranks):
            return []  # they wait to be started
        awake = [rank for rank, seen in enumerate(self._ranks) if seen.beat is None or not seen.beat.waits]
        late = [rank for rank in awake if self._ranks[rank].still_s >= self._limit_s(self._ranks[rank])]
        if not awake and all(seen.still_s >= self._limit_s(seen) for seen in self._ranks):
            late = list(range(len(self._ranks)))
        behind = [_progress(self._ranks[rank].beat) for rank in late]
        return [rank for rank, at in zip(late, behind, strict=True) if at == min(behind)]

    def _end(self, late: list[int]) -> None:
        """Take the stacks, end the processes of this machine, and raise."""
        stacks = self._stacks()
        path = self._directory / STACKS
        try:
            path.write_text("".join(f"--- rank {rank}\n{text}\n" for rank, text in stacks.items()), encoding="utf-8")
        except OSError as error:  # what it is good for is in the message, too
            warnings.warn(f"the stacks of the processes cannot be written to {path}: {error.strerror}", stacklevel=2)
        first = self._ranks[late[0]]
        waiting = {
            rank: seen.beat.waiting
            for rank, seen in enumerate(self._ranks)
            if rank not in late and seen.beat is not None and seen.beat.waits
        }
        message = self._say(late, waiting, innermost(stacks.get(late[0], "")))
        record_event(
            self._directory,
            "hang",
            ranks=late,
            node=first.beat.host if first.beat else None,
            step=first.beat.step if first.beat else 0,
            place=first.beat.place if first.beat else "not begun",
            waiting={str(rank): of for rank, of in waiting.items()},
            message=message,
        )
        for process in self._local().values():
            try:
                process.send_signal(signal.SIGKILL)  # they could save nothing: others wait for it
            except psutil.Error:
                continue
        raise RankStands(f"{message}; the stacks of all processes are in {path}")

    def _say(self, late: list[int], waiting: dict[int, str], frame: str | None) -> str:
        seen = self._ranks[late[0]]
        who = _ranks(late)
        if seen.beat is None and seen.stopped_s:
            return f"{who} was stopped by a signal (SIGSTOP) {seen.stopped_s:.0f} s ago, before it gave a sign of life"
        if seen.beat is None:
            return f"{who} gave no sign of life in {seen.still_s:.0f} s"
        where = f" on {seen.beat.host}" if seen.beat.host != socket.gethostname()[:64] else ""
        at = f", at {frame}" if frame else ""
        if seen.stopped_s:
            said = (
                f"{who}{where} (process {seen.beat.pid}) was stopped by a signal (SIGSTOP) {seen.stopped_s:.0f} s ago"
            )
        else:
            waits = f", waiting in {seen.beat.waiting} like all others" if seen.beat.waits else ""
            said = f"{who}{where} (process {seen.beat.pid}) {'has' if len(late) == 1 else 'have'} stood still for {seen.still_s:.0f} s{waits}"
        said += f" in {seen.beat.place}{at}"
        for what in sorted(set(waiting.values())):
            of = [rank for rank, other in waiting.items() if other == what]
            said += f"; {_ranks(of)} {'waits' if len(of) == 1 else 'wait'} in {what}"
        return said

    def _stacks(self) -> dict[int, str]:
        local = self._local()
        stopped = {rank for rank, seen in enumerate(self._ranks) if seen.stopped_s}
        files = {rank: self._folder / f"stack-{rank}.txt" for rank in range(len(self._ranks))}
        far = [rank for rank, seen in enumerate(self._ranks) if seen.beat is not None and rank not in local]
        if far:
            try:
                (self._folder / WANTED).touch()
            except OSError:
                far = []
        found = take_stacks({rank: of.pid for rank, of in local.items()}, files, stopped)
        if far:
            time.sleep(_FAR_S)
        for rank in far:
            found[rank] = files[rank].read_text(errors="replace") if files[rank].is_file() else "not at hand"
        return dict(sorted(found.items()))


def _rank_of(process: psutil.Process) -> int | None:
    """Return the rank of a process that torchrun's agent has started; none for any other."""
    variables = process.environ()
    rank = variables.get("RANK", "") if "TORCHELASTIC_RUN_ID" in variables else ""
    return int(rank) if rank.isdigit() else None


def _takes_long(beat: Beat) -> bool:
    return not LONG.isdisjoint(beat.phase.split(", "))


def _progress(beat: Beat | None) -> tuple[int, int]:
    return (0, 0) if beat is None else (beat.step, beat.begun if beat.waits else 0)


def _ranks(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    few = ", ".join(map(str, ranks[:8]))
    return f"ranks {few}{f' and {len(ranks) - 8} more' if len(ranks) > 8 else ''}"
