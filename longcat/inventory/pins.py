"""Results that are never removed: `pins.json` in the workspace, by name, with the time at which each was pinned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from longcat.artifact import write_json
from longcat.errors import ArtifactError
from longcat.lease import lease
from longcat.unpacking import read_json

_PINS = "pins.json"


def pins(workspace: Path) -> dict[str, str]:
    """Return when each pinned result was pinned, by `KIND/DIGEST`.

    Raises:
        ArtifactError: the file is unreadable.
    """
    path = workspace / _PINS
    try:
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is unreadable ({error}); restore it from a copy, or delete it to unpin all"
        ) from None
    return {str(name): str(when) for name, when in found.items()}


@contextmanager
def pins_held(workspace: Path) -> Iterator[None]:
    """Keep others from pinning and from removing meanwhile; a run in the workspace does neither, and is not waited for.

    Raises:
        WorkspaceBusyError: another process does.
    """
    with lease(workspace / ".pins"):
        yield


def pin(workspace: Path, find: Callable[[], list[str]]) -> None:
    """Pin results.

    Args:
        workspace: where they are.
        find: names them, once nobody can remove them any more.
    """
    with pins_held(workspace):
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        write_json(workspace / _PINS, dict.fromkeys(find(), now) | pins(workspace))


def unpin(workspace: Path, names: list[str]) -> None:
    """Let results go that were pinned."""
    with pins_held(workspace):
        write_json(workspace / _PINS, {name: when for name, when in pins(workspace).items() if name not in names})
