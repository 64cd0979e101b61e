"""A lock on a directory that survives kill -9 and shared file systems.

The holder writes its identity into a file and refreshes the file from a thread. A lease is stale when its process is
gone (same host) or when it has not been refreshed for `STALE_S` seconds (another host).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from longcat.errors import WorkspaceBusyError

HEARTBEAT_S = 5.0
STALE_S = 60.0

_held: dict[Path, int] = {}
_held_guard = threading.Lock()


@contextmanager
def lease(path: Path) -> Iterator[None]:
    """Hold the lease file `path` while the context is open; one process may nest it.

    Raises:
        WorkspaceBusyError: another live process holds it.
    """
    path = path.resolve()
    with _held_guard:
        depth = _held.get(path, 0)
        if depth == 0:
            _acquire(path)
        _held[path] = depth + 1
    stop = threading.Event()
    if depth == 0:
        threading.Thread(target=_refresh, args=(path, stop), daemon=True, name="lease").start()
    try:
        yield
    finally:
        stop.set()
        with _held_guard:
            _held[path] -= 1
            if _held[path] == 0:
                del _held[path]
                path.unlink(missing_ok=True)


def _acquire(path: Path) -> None:
    own_file = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    own_file.write_text(json.dumps(_identity()))
    try:
        for _ in range(2):
            try:
                os.link(own_file, path)  # atomic, also over NFS, and never seen half written
                return
            except FileExistsError:
                holder = _read(path)
                if not _stale(path, holder):
                    raise WorkspaceBusyError(
                        f"{path.parent} is in use by process {holder.get('pid')} on {holder.get('host')} "
                        f"(since {holder.get('since')}); wait for it, stop it, or choose another --workspace"
                    ) from None
                _discard(path, holder)
        raise WorkspaceBusyError(f"{path.parent} has just been taken by another process; try again")
    finally:
        own_file.unlink(missing_ok=True)


def _discard(path: Path, holder: dict[str, Any]) -> None:
    """Remove a stale lease, unless another process has replaced it in the meantime."""
    moved = path.with_name(f"{path.name}.stale.{os.getpid()}")
    try:
        os.rename(path, moved)
    except FileNotFoundError:
        return
    if _read(moved) != holder:
        os.link(moved, path)
    moved.unlink()


def _identity() -> dict[str, Any]:
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "pid": process.pid,
        "started": process.create_time(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _stale(path: Path, holder: dict[str, Any]) -> bool:
    if holder.get("host") == socket.gethostname():
        try:
            return bool(abs(psutil.Process(int(holder["pid"])).create_time() - float(holder["started"])) > 1)
        except psutil.NoSuchProcess:
            return True
    try:
        return time.time() - path.stat().st_mtime > STALE_S
    except FileNotFoundError:
        return True


def _refresh(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        try:
            os.utime(path)
        except OSError:  # a lost file system is noticed by whoever writes next
            continue
