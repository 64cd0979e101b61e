"""What is done to a run, to which of its processes, and when: drawn from a seed."""

from __future__ import annotations

import math
import random
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil

RANK, AGENT, SUPERVISOR, FLOW = "rank", "agent", "supervisor", "flow"
CORPUS, PREFECT, DISK, MLFLOW, NODE = "corpus worker", "Prefect server", "disk", "MLflow", "node"
TRAINING = (RANK, AGENT, SUPERVISOR)

_OTHERS = (*TRAINING, FLOW, CORPUS, PREFECT)
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "SIGKILL": (30, _OTHERS),
    "SIGTERM": (16, _OTHERS),
    "SIGINT": (8, (RANK, AGENT, FLOW)),
    "SIGSTOP": (12, _OTHERS),
    "lost": (8, (NODE,)),
    "full": (8, (DISK,)),
    "read-only": (5, (DISK,)),
    "refuses": (3, (MLFLOW,)),
    "hangs": (3, (MLFLOW,)),
    "answers 500": (3, (MLFLOW,)),
}
"""Of each kind of fault how often it is drawn, and what it is done to."""
_WEIGHTS = {RANK: 5, AGENT: 2, SUPERVISOR: 2, FLOW: 4, CORPUS: 1, PREFECT: 2}

AFTER, STEP, SAVING, STARTING, FINISHING, BEGINNING = (
    "after a while",
    "at a step",
    "while a checkpoint is saved",
    "while processes start",
    "after the last step",
    "from the beginning",
)
_MOMENTS = {AFTER: 30, STEP: 30, SAVING: 20, STARTING: 12, FINISHING: 8}


@dataclass(frozen=True)
class Fault:
    """Something that is done to a run."""

    kind: str
    """One of `KINDS`."""
    target: str
    moment: str
    amount: float
    """Between 0 and 1: how long after the moment has come."""
    choice: float
    """Between 0 and 1: which of several processes, how much room is left on a disk, how long a fault lasts."""

    def __str__(self) -> str:
        return f"{self.kind} {self.target}" if self.kind.startswith("SIG") else f"{self.target} {self.kind}"


def draw(seed: int, count: int, kinds: Iterable[str]) -> list[Fault]:
    """Draw that many faults of some kinds; the same for the same arguments."""
    chance, kinds = random.Random(seed), list(kinds)
    faults = []
    for _ in range(count):
        [kind] = chance.choices(kinds, [KINDS[kind][0] for kind in kinds])
        targets = KINDS[kind][1]
        [target] = chance.choices(targets, [_WEIGHTS.get(one, 1) for one in targets])
        [moment] = chance.choices(list(_MOMENTS), list(_MOMENTS.values()))
        amount, choice = chance.random(), chance.random()
        if target == MLFLOW:
            moment = BEGINNING
        elif target == CORPUS or (target == PREFECT and moment == STARTING):
            moment = AFTER
        faults.append(Fault(kind, target, moment, amount, choice))
    return faults


class Plan:
    """Faults that are still to be done, in the order in which they were drawn."""

    AHEAD = 10
    """How far a fault may overtake those whose moment has not come."""

    def __init__(self, drawn: Iterable[Fault], deadline: float = math.inf) -> None:
        """Plan faults; none is taken after `deadline`, by time.monotonic()."""
        self.left, self.deadline = list(drawn), deadline

    def take(self, fits: Callable[[Fault], bool]) -> Fault | None:
        """Take the next fault that fits, if there is time."""
        number = next((number for number, fault in enumerate(self.left[: self.AHEAD]) if fits(fault)), None)
        return None if number is None or self.over() else self.left.pop(number)

    def put_back(self, fault: Fault | None) -> None:
        """Put a fault back that was not done."""
        if fault is not None:
            self.left.insert(0, fault)

    def over(self) -> bool:
        """Whether there is nothing more to do, or no time for it."""
        return not self.left or time.monotonic() > self.deadline

    def leave_out(self, target: str) -> None:
        """Do no faults to a target."""
        self.left = [fault for fault in self.left if fault.target != target]


# ---------------------------------------------------------------------------------------------------- processes


def roles(root: psutil.Process) -> dict[str, list[psutil.Process]]:
    """Return the processes of a command by what they are, those of one kind in the order of their numbers."""
    found: dict[str, list[psutil.Process]] = {FLOW: [root]}
    with suppress(psutil.Error):
        for process in sorted(root.children(recursive=True), key=lambda one: one.pid):
            with suppress(psutil.Error):
                if (role := _role(process.cmdline())) is not None:
                    found.setdefault(role, []).append(process)
    return found


def _role(command: list[str]) -> str | None:
    words = " ".join(command)
    if "longcat.processes.supervisor" in command:
        return SUPERVISOR if "longcat.training.agent" in command else PREFECT
    if "longcat.training.agent" in command:
        return AGENT
    if "longcat.training.worker" in command:
        return RANK
    if "longcat.flows.prefect_server" in command or "prefect.server" in words:
        return PREFECT
    if "multiprocessing.spawn" in words:
        return CORPUS
    return None


def send(kind: str, processes: Iterable[psutil.Process]) -> list[int]:
    """Send a signal to processes; returns the numbers of those that were there."""
    reached = []
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(getattr(signal, kind))
            reached.append(process.pid)
    return reached
