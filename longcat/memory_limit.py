"""Memory that processes of this machine may use: all of it, or less where a container has a limit."""

from __future__ import annotations

from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def group_limit_bytes() -> int | None:
    """Return the least memory limit of this process' control groups, of version 1 or 2; None without one."""
    limits = []
    for line in _lines(_MEMBERSHIP):
        _, _, line = line.partition(":")
        controllers, _, group = line.partition(":")
        if not controllers or "memory" in controllers.split(","):
            controllers = controllers and "memory"
            folder = _GROUPS / controllers / group.lstrip("/")
            for one in (folder, *folder.parents):
                if not one.is_relative_to(_GROUPS / controllers):
                    break
                limits += [
                    int(text)
                    for name in ("memory.max", "memory.limit_in_bytes")
                    for text in _lines(one / name)
                    if text.isdigit()
                ]
    # version 1 says "no limit" with a number larger than any memory
    return min((limit for limit in limits if limit < psutil.virtual_memory().total), default=None)


def memory_bytes() -> int:
    """Return the memory that this process and its children may use, in bytes."""
    return group_limit_bytes() or int(psutil.virtual_memory().total)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
