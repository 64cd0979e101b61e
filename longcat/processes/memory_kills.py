"""Processes that the kernel has killed for memory, by its own counters: so nobody has to guess why one got SIGKILL."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
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
        return cls(_first(_group_files()), _first([_MACHINE]))

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


def _group_files() -> list[Path]:
    """List the files that may count the kills of this process' group, of version 2 and 1, the nearest one first."""
    found = []
    with suppress(OSError):
        for line in _MEMBERSHIP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            inner = path.lstrip("/")
            if not controllers:
                found += [_GROUPS / inner / "memory.events", _GROUPS / "memory.events"]
            elif "memory" in controllers.split(","):
                # a container may see its own group as the root
                found += [_GROUPS / "memory" / part / "memory.oom_control" for part in (inner, "")]
    return found


def _first(files: list[Path]) -> int | None:
    for path in files:
        with suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return None
