"""What the launcher sees of the training processes while they run."""

from __future__ import annotations

import warnings
from pathlib import Path

from longcat.training.life import EventFollower, sentence


class Watch:
    """Watches one attempt; `look` is called a few times per second."""

    def __init__(self, directory: Path) -> None:
        self._events = EventFollower(directory)

    def look(self) -> None:
        """Warn of what has happened since the last look."""
        for event in self._events.new():
            if said := sentence(event):
                warnings.warn(said, stacklevel=2)
