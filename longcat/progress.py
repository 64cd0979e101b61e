"""How a stage tells its caller where it stands.

A stage knows nothing of terminals, Prefect or MLflow: it calls `report(Progress(...))`. A reporter may raise
`longcat.errors.Cancelled`; the stage then unwinds, ends its children and keeps what it has saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One sign of life of a stage."""

    stage: str
    """Name of the stage, as in `longcat STAGE`."""
    done: float
    """Work finished so far, in the unit of `total`."""
    total: float
    """All the work; 0 while it is not known."""
    message: str = ""
    """What is being done now, for people."""

    @property
    def share(self) -> float:
        """Finished share between 0 and 1 (0 while the total is unknown)."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


Reporter = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The reporter that says nothing."""


_listeners: list[Reporter] = []


def listeners() -> tuple[Reporter, ...]:
    """Reporters that want to hear of every stage in this process, besides the one a stage was given."""
    return tuple(_listeners)


@contextmanager
def listening(reporter: Reporter) -> Iterator[None]:
    """Let `reporter` hear of every stage while the context is open."""
    _listeners.append(reporter)
    try:
        yield
    finally:
        _listeners.remove(reporter)
