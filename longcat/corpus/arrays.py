"""Arrays on disk, each written as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from longcat.disk import replacing
from longcat.lease import check_lease


def save(path: Path, array: np.ndarray) -> None:
    """Write an array atomically: a reader finds all of it or no file, even after a power cut."""
    check_lease()
    with replacing(path) as stream:
        np.save(stream, array)


def save_raw(path: Path, array: np.ndarray) -> None:
    """Write the bytes of an array atomically, without a header: `np.fromfile` reads any range of them."""
    check_lease()
    with replacing(path) as stream:
        stream.write(array.data)
