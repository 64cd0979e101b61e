"""How the processes of an attempt fare on several nodes: which have ended, which failed, and which nodes were lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from longcat.errors import TrainingError
from longcat.processes.head import Member
from longcat.processes.launch import POLL_S
from longcat.processes.logs import pattern_of
from longcat.processes.orders import Outcome


class Attempt:
    """How the processes of an attempt fare on each of its nodes."""

    def __init__(self, members: Sequence[Member], attempt: int) -> None:
        self.members, self._attempt = members, attempt
        self.outcomes: dict[str, Outcome] = {}
        self.lost: dict[str, str] = {}

    def running(self) -> list[Member]:
        """List the nodes of which no end is known."""
        for member in self.members:
            while member.name not in self.outcomes and not member.inbox.empty():
                message = member.inbox.get_nowait()
                if message.get("word") == "ended" and message.get("attempt") == self._attempt:
                    self.outcomes[member.name] = Outcome.from_dict(message["outcome"])
            if member.name not in self.outcomes and member.lost is not None:
                self.lost.setdefault(member.name, member.lost)
        return [member for member in self.members if member.name not in {*self.outcomes, *self.lost}]

    def failed(self) -> bool:
        """Say whether a node was lost or one of its processes has failed."""
        return bool(self.lost) or any(outcome.code for outcome in self.outcomes.values())

    def listen(self, limit_s: float) -> None:
        """Wait a moment for the other nodes' own ends: what failed first may be told last."""
        end = time.monotonic() + limit_s
        while self.running() and time.monotonic() < end:
            time.sleep(POLL_S)

    def stop(self, limit_s: float) -> None:
        """End what still runs, and wait for it; a node that does not say so is lost."""
        running = self.running()
        for member in running:
            member.tell(word="stop")
        end = time.monotonic() + limit_s
        while (running := self.running()) and time.monotonic() < end:
            time.sleep(POLL_S)
        for member in running:
            member.lost = self.lost[member.name] = f"its processes did not end within {limit_s:g} s"
            member.channel.close()


def loss_of(watch: Attempt, logs: Path) -> TrainingError:
    """Return the error that tells of the first node that was lost."""
    (name, why), *_ = watch.lost.items()
    return TrainingError(f"node {name} was lost ({why}); see {pattern_of(logs, name)}")
