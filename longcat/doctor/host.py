"""What a machine has for a run: disk of the workspace, memory, limits and clock."""

from __future__ import annotations

import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import psutil

from longcat.memory_limit import group_limit_bytes, memory_bytes
from longcat.printable import large_bytes

_SHARED = Path("/dev/shm")  # nosec B108 # looked at only
_DISK_BYTES, _MEMORY_BYTES, _SHARED_BYTES = 2e9, 4e9, 256e6
_FILES = 1024
_KINDS = {
    "in memory": {"tmpfs", "ramfs"},
    "of a container": {"overlay", "aufs"},
    "network": {"nfs", "nfs4", "cifs", "smb3", "lustre", "ceph", "beegfs", "gpfs", "glusterfs", "9p", "fuse.juicefs"},
}
_MEANINGS = {
    "in memory": "what is in it is gone when the machine restarts, and takes memory from the run",
    "of a container": "what is in it is gone with the container; mount a volume for it",
}
Found = tuple[dict[str, Any], list[str], list[str]]
"""Facts, problems and notes."""


def examine_disk(workspace: Path) -> Found:
    """Return the file system that a workspace is or would be on, and what is wrong with it."""
    existing = next(path for path in (workspace, *workspace.parents) if path.exists())
    usage = shutil.disk_usage(existing)
    name = _file_system(existing)
    kind = next((kind for kind, names in _KINDS.items() if name in names), "local")
    problems, notes = [], []
    if not os.access(existing, os.W_OK):
        problems.append(f"{existing} cannot be written: choose another --workspace")
    if usage.free < _DISK_BYTES:
        problems.append(f"{existing} has {large_bytes(usage.free)} left: 2 GB are needed; choose another --workspace")
    status = os.statvfs(existing)
    if status.f_files and status.f_favail < 10_000:
        problems.append(f"{existing} has room for {status.f_favail:,} files more; choose another --workspace")
    if meaning := _MEANINGS.get(kind):
        notes.append(f"{existing} lies {kind} ({name}): {meaning}")
    facts = {
        "path": str(workspace),
        "file_system": f"{name}, {kind}",
        "free_gb": round(usage.free / 1e9, 1),
        "total_gb": round(usage.total / 1e9, 1),
    }
    return facts, problems, notes


def examine_machine() -> Found:
    """Return cores, memory, limits and clock of this machine, and what is wrong with them."""
    memory, limit = psutil.virtual_memory(), group_limit_bytes()
    cores, files = len(os.sched_getaffinity(0)), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    unlimited = files == resource.RLIM_INFINITY
    shared = shutil.disk_usage(_SHARED) if _SHARED.is_dir() else None
    problems, notes = [], []
    if (usable := memory_bytes()) < _MEMORY_BYTES:
        problems.append(f"{large_bytes(usable)} of memory: the preset tiny needs 4 GB; try --preset smoke")
    if not unlimited and files < _FILES:
        problems.append(f"a process may open {files} files only: ulimit -n {_FILES} or more")
    if shared is not None and shared.total < _SHARED_BYTES:
        notes.append(
            f"{_SHARED} has {shared.total / 1e6:.0f} MB: too little for checkpoints in memory and the emulator; "
            "docker run takes --shm-size=1g"
        )
    if (now := time.time()) < Path(__file__).stat().st_mtime - 86400:
        problems.append(
            f"the clock says {time.strftime('%Y-%m-%d', time.localtime(now))}, which is before longcat was installed: set it"
        )
    facts = {
        "cores": cores,
        "memory_gb": round(memory.total / 1e9, 1),
        "memory_available_gb": round(memory.available / 1e9, 1),
        "memory_limit_gb": None if limit is None else round(limit / 1e9, 1),
        "shared_memory_gb": None if shared is None else round(shared.total / 1e9, 1),
        "open_files": "unlimited" if unlimited else files,
        "clock": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }
    return facts, problems, notes


def _file_system(path: Path) -> str:
    """Return the type of the file system that a path lies on, by the longest mount point above it."""
    above = {str(path.resolve()), *map(str, path.resolve().parents)}
    mounts = [one for one in psutil.disk_partitions(all=True) if one.mountpoint in above]
    return max(mounts, key=lambda one: len(one.mountpoint)).fstype if mounts else "unknown"
