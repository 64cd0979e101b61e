"""Processes that the kernel has killed for memory, by its own counters: so nobody has to guess why one got SIGKILL."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from longcat.memory_limit import memory_groups

_COUNTERS = ("memory.events", "memory.oom_control")
"""Files of a control group that count, of version 2 and 1."""
_MACHINE = Path("/proc/vmstat")


@dataclass(frozen=True)
class MemoryKills:
    """How many processes the kernel has killed so far because memory was full; None where it does not say."""

    of_group: int | None
    """In this process' control group, whose limit was reached."""
    of_machine: int | None
    """On the whole machine, those of all groups included."""

    @classmethod
    def now(cls) -> MemoryKills:
        """Read the counters."""
        of_group = _first(folder / name for folder in memory_groups() for name in _COUNTERS)
        return cls(of_group, _first([_MACHINE]))

    def why(self, code: int) -> str:
        """Say what the kernel knows of a process that has ended since these counters were read.

        Args:
            code: its exit code; a signal's number below 0.

        Returns:
            Words in brackets with a space before them; empty for any end but SIGKILL, which nothing has to explain.
        """
        if code != -signal.SIGKILL:
            return ""
        now = MemoryKills.now()
        if _more(self.of_group, now.of_group):
            return " (out of memory: the limit of its control group)"
        if _more(self.of_machine, now.of_machine):
            return " (out of memory: the kernel has ended a process for it)"
        if now.of_machine is None and now.of_group is None:
            return " (out of memory?)"
        return " (not by the kernel for lack of memory)"


def _more(before: int | None, after: int | None) -> bool:
    return before is not None and after is not None and after > before


def _first(files: Iterable[Path]) -> int | None:
    for path in files:
        with suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return None
