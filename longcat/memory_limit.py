"""Memory that processes of this machine may use: all of it, or less where a container has a limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def memory_groups() -> Iterator[Path]:
    """Yield the folders of this process' control groups that know of memory, of version 1 and 2: nearest first.

    Those above follow, up to the root, which is what a container may see its own group as.
    """
    for line in _lines(_MEMBERSHIP):
        _, _, line = line.partition(":")
        controllers, _, group = line.partition(":")
        if not controllers or "memory" in controllers.split(","):
            top = _GROUPS / (controllers and "memory")
            folder = top / group.lstrip("/")
            yield from (one for one in (folder, *folder.parents) if one.is_relative_to(top))


def group_limit_bytes() -> int | None:
    """Return the least memory limit of this process' control groups; None without one."""
    limits = [
        int(text)
        for folder in memory_groups()
        for name in ("memory.max", "memory.limit_in_bytes")
        for text in _lines(folder / name)
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
