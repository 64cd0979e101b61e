"""What earlier runs have left unsent: sent by `longcat sync`, or by the next run in its background."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from longcat.artifact import Workspace
from longcat.best_effort import Service, reason
from longcat.errors import TrackingError, WorkspaceBusyError
from longcat.tracking.forwarding import Verdict, verdict
from longcat.tracking.journal import Sent, close_abandoned
from longcat.tracking.sender import Sender
from longcat.tracking.store import prepare, store_path

written_here = set[Path]()
"""Journals of runs in this process that have not ended."""


def sync(workspace: Workspace) -> int:
    """Send unsent events of earlier runs, and mark runs whose process is gone as killed; returns how many were sent.

    What MLflow refuses for good is set aside, with a warning; a journal that it cannot take now does not stop the others.

    Raises:
        TrackingError: MLflow cannot be reached, or could not take everything.
        WorkspaceBusyError: another process is writing in the workspace; a run sends what is left there by itself.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(workspace.lease())
        except WorkspaceBusyError as error:
            raise WorkspaceBusyError(f"{error}; a run sends its own records, and what others have left") from None
        return _send_what_is_left(workspace)


def _send_what_is_left(workspace: Workspace, between: Callable[[], None] = lambda: None) -> int:
    """Send all journals but those of runs in this process, which holds the lease; see `sync`.

    Args:
        workspace: has the journals.
        between: is called after each batch.
    """
    sent, problem = 0, None
    if store_path(workspace).exists():
        prepare(workspace)
    for path in sorted((workspace.path / "tracking").glob("*.jsonl")):
        state = Sent.of(path)
        if (state.complete and state.offset == path.stat().st_size) or path in written_here:
            continue
        close_abandoned(path)
        sender = Sender(path, workspace)
        try:
            if sender.unsent_bytes > 0:
                sender.send_all(between)
                sent += 1
            sender.complete()
        except Exception as error:
            unreached = verdict(error) is Verdict.UNREACHED
            problem = TrackingError(
                f"MLflow at {sender.service.address} {'could not be reached' if unreached else 'answered with an error'} "
                f"({reason(error)}); the records are kept in {path}"
            )
            if unreached:
                break
    if problem is not None:
        raise problem
    return sent


def send_others(workspace: Workspace, service: Service, between: Callable[[], None]) -> None:
    """Send what earlier runs have left, in the background of this one, whose own records go out `between`."""
    try:
        _send_what_is_left(workspace, between)
    except TrackingError as error:
        service.failed(error, answered=True)
