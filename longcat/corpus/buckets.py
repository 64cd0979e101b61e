"""Records on disk, sorted into parts: what belongs together comes together, part by part, in any process.

Whoever has records writes one file of them, those of the first part first, and where each part ends. Whoever works on a
part reads its piece of every file. So there are as many files as writers, whatever the number of parts, and nobody
holds more than a part.

NAME.npy        records of a structured or plain type, part after part
NAME.ends.npy   int64 [parts]: the record after the last of each part; the last of the two files
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longcat.corpus.arrays import save

PART_BYTES = 64 << 20
"""About the size of a part."""


@dataclass(frozen=True)
class Buckets:
    """Files of records of one kind, each divided into the same parts."""

    folder: Path
    files: tuple[str, ...]
    """Names, in the order in which the records of a part are read."""
    parts: int

    def missing(self) -> list[str]:
        """List the files that are not written yet."""
        return [name for name in self.files if not (self.folder / f"{name}.ends.npy").exists()]

    def write(self, name: str, records: np.ndarray, part: np.ndarray) -> None:
        """Write a file; records of a part keep their order.

        Args:
            name: of the file.
            records: `[records]`.
            part: number of the part that each belongs to, `[records]`.
        """
        small = part.astype(np.uint16) if self.parts <= 1 << 16 else part  # which is sorted by its digits
        order = np.argsort(small, kind="stable")
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        save(self.folder / f"{name}.npy", records[order])
        save(self.folder / f"{name}.ends.npy", np.cumsum(np.bincount(part.astype(np.int64), minlength=self.parts)))

    def read(self, part: int) -> np.ndarray:
        """Read the records of a part out of all files."""
        return np.concatenate([self._piece(name, part) for name in self.files])

    def remove(self) -> None:
        """Remove the files."""
        for name in self.files:
            for suffix in (".ends.npy", ".npy"):
                (self.folder / f"{name}{suffix}").unlink(missing_ok=True)

    def _piece(self, name: str, part: int) -> np.ndarray:
        ends = np.load(self.folder / f"{name}.ends.npy", mmap_mode="r")
        records: np.ndarray = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return np.array(records[ends[part - 1] if part else 0 : ends[part]])


def parts_for(records: int, record_bytes: int, part_bytes: int = PART_BYTES) -> int:
    """Return into how many parts records are divided."""
    return max(1, -(-records * record_bytes // part_bytes))


def part_of(hashes: np.ndarray, parts: int) -> np.ndarray:
    """Return the part of each hash, int64: equal ranges of their upper 32 bits.

    Args:
        hashes: evenly distributed, uint64.
        parts: fewer than 2^31.
    """
    return ((hashes >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)).astype(np.int64)


def shares(count: int, at_least: int) -> Sequence[range]:
    """Divide the numbers of parts among calls, so that small parts share one: `at_least` in each."""
    return [range(begin, min(begin + at_least, count)) for begin in range(0, count, at_least)]
