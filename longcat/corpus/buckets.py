"""Records on disk, sorted into parts: what belongs together comes together, part by part, in any process.

Whoever has records writes one file of them, those of the first part first, and where each part ends. Whoever works on a
part reads its piece of every file. So there are as many files as writers, whatever the number of parts, and nobody
holds more than a part.

NAME.records    records of a structured or plain type, part after part
NAME.ends       int64 [parts]: the record after the last of each part; the last of the two files
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longcat.corpus.arrays import save_raw
from longcat.errors import DataError

PART_BYTES = 64 << 20
"""About the size of a part."""


@dataclass(frozen=True)
class Buckets:
    """Files of records of one kind, each divided into the same parts."""

    folder: Path
    files: tuple[str, ...]
    """Names, in the order in which the records of a part are read."""
    parts: int
    dtype: np.dtype
    """Type of a record."""

    def missing(self) -> list[str]:
        """List the files that are not written yet."""
        return [name for name in self.files if not (self.folder / f"{name}.ends").exists()]

    def write(self, name: str, records: np.ndarray, part: np.ndarray) -> None:
        """Write a file; records of a part keep their order.

        Args:
            name: of the file.
            records: `[records]`.
            part: number of the part that each belongs to, `[records]`.
        """
        self.write_ordered(name, records[self.order(part)], np.bincount(part, minlength=self.parts))

    def write_ordered(self, name: str, records: np.ndarray, counts: np.ndarray) -> None:
        """Write a file of records that are in the order of their parts already, `counts` of each part."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_raw(self.folder / f"{name}.records", records)
        save_raw(self.folder / f"{name}.ends", np.cumsum(counts, dtype=np.int64))

    def order(self, part: np.ndarray) -> np.ndarray:
        """Return the order of records by their parts, int64 `[records]`; those of a part keep theirs."""
        small = part.astype(np.min_scalar_type(self.parts - 1))  # which is sorted by its digits
        return np.argsort(small, kind="stable")

    def read(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the records of a part out of all files.

        Returns:
            The records, and where those of each file end among them, int64 `[files]`.

        Raises:
            DataError: a file is cut off.
        """
        edges = np.array([self._edges(name, part) for name in self.files], np.int64).reshape(-1, 2)
        ends = np.cumsum(edges[:, 1] - edges[:, 0])
        records = np.empty(int(ends[-1]), self.dtype)
        for name, (begin, end), place in zip(self.files, edges.tolist(), ends.tolist(), strict=True):
            if begin < end:
                path = self.folder / f"{name}.records"
                own = records[place - (end - begin) : place].view(np.uint8)
                with path.open("rb") as stream:
                    stream.seek(begin * self.dtype.itemsize)
                    if stream.readinto(own.data) != own.nbytes:
                        raise DataError(f"{path} ends before record {end}; remove {self.folder} and run again")
        return records, ends

    def remove(self) -> None:
        """Remove the files."""
        for name in self.files:
            for suffix in (".ends", ".records"):
                (self.folder / f"{name}{suffix}").unlink(missing_ok=True)

    def _edges(self, name: str, part: int) -> tuple[int, int]:
        """Read where the records of a part begin and end in a file."""
        with (self.folder / f"{name}.ends").open("rb") as stream:
            stream.seek(8 * max(0, part - 1))
            edges = np.fromfile(stream, np.int64, 2 if part else 1).tolist()
        return (edges[0], edges[1]) if part else (0, edges[0])


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
