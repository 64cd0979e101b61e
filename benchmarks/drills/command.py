"""One command of a drill, from its start to the end of all its processes, and what is done to it meanwhile."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from drills import faults
from drills.accounts import Steps, processes_of
from drills.disk import Disk
from drills.faults import Fault, Plan

MARK = "LONGCAT_DRILL"
"""Variable by which all processes of a drill are known."""
MAX_RESTARTS = 5
"""`training.max_restarts` of the runs."""
POLL_S = 0.05
PATIENCE_S = 10.0
"""Seconds that a fault waits for the process it is meant for, once its moment has come; then it takes another one."""
QUIET_S = 300.0
"""Seconds without a sign of progress after which a command is taken to hang."""
ENDING_S = 60.0
"""Seconds that the processes of a command may take to end after it."""


@dataclass
class Done:
    """A fault that was done, and what came of it."""

    fault: Fault
    number: int
    at_s: float
    """Since the command began."""
    target: str
    pids: list[int]
    step: int
    """That training was at."""
    starts: int
    """How often training had begun by then."""
    outcome: str = ""
    recovery_s: float | None = None
    """Until a new step was recorded, if nothing else was done meanwhile."""
    until: float | None = None
    """When it ends, if it does by itself."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "kill": self.number, **asdict(self.fault), "at_s": round(self.at_s, 2), "target": self.target,
            "pids": self.pids, "step": self.step, "outcome": self.outcome, "recovery_s": self.recovery_s,
        }  # fmt: skip


@dataclass
class Ending:
    """How a command ended."""

    code: int
    said: str
    """The last line of its errors."""
    broken: list[str] = field(default_factory=list)


def run(
    command: Sequence[str],
    *,
    steps: Steps,
    disk: Disk,
    plan: Plan,
    done: Callable[[Done], None],
    environment: dict[str, str],
    errors: Path,
) -> Ending:
    """Run a command and hurt it, until it ends."""
    with _MlflowAway(plan.take(lambda fault: fault.target == faults.MLFLOW)) as (away, address):
        variables = {**environment, **({"MLFLOW_TRACKING_URI": address} if address else {})}
        with errors.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "longcat.cli", *command],
                env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stream, start_new_session=True,
            )  # fmt: skip
        hurting = _Hurting(process.pid, steps, disk, plan, done)
        if away is not None:
            hurting.note(away, faults.MLFLOW, [])
        ending = Ending(0, "")
        while process.poll() is None:
            hurting.look()
            if time.monotonic() - hurting.moved > QUIET_S:
                ending.broken.append(f"the command stands still since {QUIET_S:g} s: {_tree(process.pid)}")
                break
            time.sleep(POLL_S)
        for one in list(hurting.lasting):
            hurting.end(one)
        disk.empty()
        ending.broken += _await_end(process, (MARK, environment[MARK]))
    plan.put_back(hurting.fault)
    ending.code = process.returncode
    lines = errors.read_text(errors="replace").splitlines()
    told = [line for line in lines if line.startswith("error:")]
    ending.said = (told or [line for line in lines if line.strip()] or [""])[-1]
    ending.broken += judge(ending, lines, hurting.mine)
    for one in hurting.mine:
        one.outcome = one.outcome or (
            f"the command ended with code {ending.code}: {ending.said}" if ending.code else "the run went on"
        )
    return ending


def judge(ending: Ending, lines: list[str], mine: Sequence[Done]) -> list[str]:
    """Say what of a command's end is not what its faults allow."""
    hit = {(one.fault.kind, one.target) for one in mine}
    at_flow = {kind for kind, target in hit if target == faults.FLOW}
    allowed = {0}
    if "SIGKILL" in at_flow:
        allowed.add(-signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGINT):
        if number.name in at_flow:  # before the program has begun, Python ends by the signal
            allowed |= {128 + number, -number}
    if any(target == faults.DISK for _, target in hit):
        allowed.add(2)
    if any(target == faults.CORPUS for _, target in hit):
        allowed.add(1)
    trained = [one for one in mine if one.target in (*faults.TRAINING, faults.NODE)]
    if len(trained) > MAX_RESTARTS and "train" in ending.said:
        allowed.add(1)
    broken = []
    if ending.code not in allowed:
        broken.append(f"it ended with code {ending.code}: {ending.said}")
    if ending.code not in (-signal.SIGINT, -signal.SIGTERM) and any(line.startswith("Traceback") for line in lines):
        broken.append("it printed a traceback")
    return broken


class _Hurting:
    """Does one fault after another to a command."""

    def __init__(
        self,
        pid: int,
        steps: Steps,
        disk: Disk,
        plan: Plan,
        done: Callable[[Done], None],
    ) -> None:
        self.root, self.steps, self.disk = psutil.Process(pid), steps, disk
        self._plan, self._done = plan, done
        self.began = self.moved = time.monotonic()
        self.mine: list[Done] = []
        self.lasting: list[Done] = []
        self._first = not steps.starts and not list(steps.workspace.glob("tokens/[!.]*"))
        self._seen = 0.0
        self._arm()

    def _arm(self) -> None:
        """Choose the next fault; one that waits for the end of training lets others go first."""
        trained = self.steps.trained()

        def fits(fault: Fault) -> bool:
            return (
                fault.target != faults.MLFLOW
                and (fault.target != faults.CORPUS or self._first)
                and (fault.moment in (faults.FINISHING, faults.AFTER) if trained else fault.moment != faults.FINISHING)
            )

        self.fault, self._trained = self._plan.take(fits), trained
        self._armed, self._step, self._due = time.monotonic(), self.steps.last, None

    def look(self) -> None:
        """See whether the moment of the next fault has come, and whether those that last are over."""
        now = time.monotonic()
        before = (self.steps.events, self.steps.last)
        self.steps.look()
        if (self.steps.events, self.steps.last) != before:
            self.moved = now
            self._recovered(now)
        for one in [one for one in self.lasting if one.until is not None and now > one.until]:
            self.end(one)
        if not self._trained and self.steps.trained():
            self._plan.put_back(self.fault)
            self._arm()
        if self.fault is None or self.disk.read_only:
            return
        if now - self._seen > 0.25 or self.fault.moment == faults.STARTING:
            self._roles, self._seen = faults.roles(self.root), now
        if self._due is None:
            self._due = self._moment(self.fault, now)
        if self._due is not None and now >= self._due:
            self._try(self.fault, now)

    def _moment(self, fault: Fault, now: float) -> float | None:
        match fault.moment:
            case faults.STEP if self.steps.last >= self._step + 1 + 30 * fault.amount and self.steps.last:
                return now
            case faults.SAVING if self.steps.saving() and now - self._armed > 3 * fault.amount:
                return now + 0.1 * fault.choice
            case faults.STARTING if faults.RANK in self._roles:
                return now + 4 * fault.amount
            case faults.FINISHING if self.steps.trained():
                return now + fault.amount
            case faults.AFTER:
                return self._armed + 10 * fault.amount
        return None

    def _try(self, fault: Fault, now: float) -> None:
        self._roles = faults.roles(self.root)
        if fault.target == faults.DISK:
            if fault.kind == "full":
                self.disk.fill(int(300_000 * max(0.0, fault.amount - 0.3)))
                self.note(fault, faults.DISK, [], lasts_s=8 * fault.choice if fault.choice < 0.6 else None)
            else:
                self.disk.fail()
                self.note(fault, faults.DISK, [])
            return self._arm()
        target = fault.target
        wanted = (faults.RANK, faults.AGENT) if target == faults.NODE else (target,)
        there = [process for role in wanted for process in self._roles.get(role, [])]
        if not there:  # it comes later, or is gone
            if now - (self._due or now) < PATIENCE_S:
                return None
            others = [role for role in self._roles if role != faults.CORPUS]
            target = sorted(others)[int(fault.choice * len(others))]
            there = self._roles[target]
            if fault.kind == "lost":
                fault = replace(fault, kind="SIGKILL")
        if target != faults.NODE:
            there = [there[int(fault.choice * len(there))]]
        if target == faults.FLOW and fault.kind == "SIGINT":  # as a terminal does
            there += self._roles.get(faults.CORPUS, [])
        reached = faults.send("SIGKILL" if fault.kind == "lost" else fault.kind, there)
        if reached:
            lasts = fault.kind == "SIGSTOP" and target in (faults.FLOW, faults.CORPUS)
            self.note(fault, target, reached, lasts_s=1 + 7 * fault.amount if lasts else None)
            self._arm()
        return None

    def note(self, fault: Fault, target: str, pids: list[int], lasts_s: float | None = None) -> None:
        """Write down what was done."""
        now = time.monotonic()
        one = Done(fault, 0, now - self.began, target, pids, self.steps.last, self.steps.starts)
        if lasts_s is not None:
            one.until = now + lasts_s
            self.lasting.append(one)
        self.mine.append(one)
        self.moved = now
        self._done(one)

    def end(self, one: Done) -> None:
        """End a fault that lasts."""
        if one in self.lasting:
            self.lasting.remove(one)
        if one.target == faults.DISK:
            self.disk.empty()
        for pid in one.pids:
            with suppress(OSError):
                os.kill(pid, signal.SIGCONT)

    def _recovered(self, now: float) -> None:
        """Note how long the last fault has kept training from a new step."""
        if self.mine and self.mine[-1].recovery_s is None and self.steps.starts > self.mine[-1].starts:
            one = self.mine[-1]
            if self.steps.fresh and one.target != faults.MLFLOW:
                one.recovery_s = round(now - self.began - one.at_s, 2)


def _await_end(process: subprocess.Popen[bytes], mark: tuple[str, str]) -> list[str]:
    """Wait until all processes of a command have ended; those that have not are ended, and named."""
    end = time.monotonic() + ENDING_S
    if process.poll() is None:
        process.kill()
        process.wait()
    while (left := list(processes_of(mark))) and time.monotonic() < end:
        time.sleep(0.1)
    said = []
    for one in left:
        with suppress(psutil.Error):
            said.append(f"a process is left: {one.pid} {' '.join(one.cmdline())[:150]} ({one.status()})")
            one.kill()
    return said


def _tree(pid: int) -> str:
    with suppress(psutil.Error):
        everyone = psutil.Process(pid).children(recursive=True)
        return "; ".join(f"{one.pid} {one.status()} {' '.join(one.cmdline())[:80]}" for one in everyone)
    return "no children"


class _MlflowAway:
    """An MLflow that refuses connections, never answers, or answers 500."""

    def __init__(self, fault: Fault | None) -> None:
        self._fault = fault
        self._socket: socket.socket | None = None
        self._server: http.server.ThreadingHTTPServer | None = None

    def __enter__(self) -> tuple[Fault | None, str | None]:
        if self._fault is None:
            return None, None
        if self._fault.kind == "answers 500":
            self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Broken)
            threading.Thread(target=self._server.serve_forever, daemon=True).start()
            return self._fault, f"http://127.0.0.1:{self._server.server_port}"
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        if self._fault.kind == "hangs":
            self._socket.listen(64)
        return self._fault, f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        if self._socket is not None:
            self._socket.close()


class _Broken(http.server.BaseHTTPRequestHandler):
    def _answer(self) -> None:
        self.send_error(500)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
