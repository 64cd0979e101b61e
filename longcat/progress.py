"""Progress reports from a stage to its caller.

A stage knows nothing of terminals, Prefect or MLflow: it calls `report(Progress(...))`. A reporter may raise
`longcat.errors.Cancelled`; the stage then unwinds, ends its children and keeps what it has saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One progress report of a stage."""

    stage: str
    """Name of the stage, as in `longcat STAGE`."""
    done: float
    """Work finished so far, in the unit of `total`."""
    total: float
    """All the work; 0 while it is not known."""
    message: str = ""
    """What is being done now, for people."""

    @property
    def fraction(self) -> float:
        """Return the finished fraction, between 0 and 1 (0 while the total is unknown)."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


Reporter = Callable[[Progress], None]


def no_progress(progress: Progress) -> None:
    """Discard a progress report; the default reporter."""


_listeners: list[Reporter] = []


def progress_listeners() -> tuple[Reporter, ...]:
    """Return the reporters that receive the progress of every stage of this process, besides a stage's own reporter."""
    return tuple(_listeners)


@contextmanager
def progress_listener(reporter: Reporter) -> Iterator[None]:
    """Pass the progress of every stage to `reporter` while the context is open."""
    _listeners.append(reporter)
    try:
        yield
    finally:
        _listeners.remove(reporter)
