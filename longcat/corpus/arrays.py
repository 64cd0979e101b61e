"""Arrays on disk, each written as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def save(path: Path, array: np.ndarray) -> None:
    """Write an array atomically: a reader finds all of it or no file, even after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.save(stream, array)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
