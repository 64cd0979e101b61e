"""What is needed of the file system that nodes share: rename, fsync, locks, and that each sees what another wrote.

The launcher asks each node for one step after another (`STEPS`), all nodes for a step before the next.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

STEPS = ("write", "see", "hold", "try", "clear")
"""`hold` is for the first node only, `try` for all the others, the rest for all."""
VISIBLE_S = 20.0
"""Seconds in which a file of one node has to be seen on the others."""
_held: dict[str, IO[str]] = {}


def answer(workspace: Path, name: str, step: str, token: str) -> str | None:
    """Do a step of the check on a node; returns what is wrong, in a sentence, or None.

    Args:
        workspace: the shared folder.
        name: of this node.
        step: one of `STEPS`; `see` is followed by a colon and the names of all nodes, separated by slashes.
        token: of this check; part of the folder's name.
    """
    folder = workspace / f".nodes-{token}"
    step, _, names = step.partition(":")
    try:
        match step:
            case "write":
                _write(folder, name)
            case "see":
                return _see(folder, name, names.split("/"))
            case "hold":
                _hold(folder, name)
            case "try":
                return _try(folder, name)
            case "clear":
                _clear(folder, name)
    except OSError as error:
        return f"node {name} cannot {_DOES[step]} in {workspace}: {error.strerror or error}"
    return None


_DOES = {
    "write": "write, fsync and rename files",
    "see": "read",
    "hold": "lock a file",
    "try": "lock a file",
    "clear": "remove files",
}


def _write(folder: Path, name: str) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    temporary, final = folder / f".{name}", folder / name
    final.write_text("an older file\n", encoding="utf-8")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(name)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(temporary, final)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _see(folder: Path, name: str, names: list[str]) -> str | None:
    end = time.monotonic() + VISIBLE_S
    missing = names
    while missing and time.monotonic() < end:
        list(folder.iterdir())  # has a network file system look again
        missing = [other for other in names if _text(folder / other) != other]
        if missing:
            time.sleep(0.2)
    if missing:
        return f"node {name} does not see within {VISIBLE_S:g} s what {', '.join(missing)} wrote to {folder.parent}"
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _hold(folder: Path, name: str) -> None:
    stream = (folder / "lock").open("w", encoding="utf-8")
    fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _held[name] = stream


def _try(folder: Path, name: str) -> str | None:
    with (folder / "lock").open("r+", encoding="utf-8") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # as it should be
            return None
    return (
        f"node {name} does not see the lock that another node holds on a file in {folder.parent}: mount it with locks"
    )


def _clear(folder: Path, name: str) -> None:
    if name in _held:
        _held.pop(name).close()
        (folder / "lock").unlink(missing_ok=True)
    (folder / name).unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:  # the last node does it
        pass
