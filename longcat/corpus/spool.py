"""Cleaned documents on disk between the first pass (read, clean) and the second (tokenise).

The tokenizer is trained on the corpus it then encodes, so every document is needed twice; memory holds only 16 bytes
for each of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np


class Spool:
    """Texts appended once and read back any number of times. A context manager that closes its file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=1 << 20)
        self._ends = array("Q", [0])
        self._keys = array("Q")

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError:  # a full disk again, while what is buffered is flushed: the first error is on its way
            if error is None:
                raise

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def size_bytes(self) -> int:
        """UTF-8 bytes of all texts."""
        return self._ends[-1]

    def append(self, text: bytes, key: int) -> None:
        """Add a text; `key` (64 bits) is its place in `sample`."""
        self._file.write(text)
        self._ends.append(self._ends[-1] + len(text))
        self._keys.append(key)

    def batches(self, batch_bytes: int) -> Iterator[list[str]]:
        """All texts in the order of their arrival, in lists of about `batch_bytes`."""
        batch: list[str] = []
        filled = 0
        for index in range(len(self)):
            batch.append(self._read(index))
            filled += self._ends[index + 1] - self._ends[index]
            if filled >= batch_bytes:
                yield batch
                batch, filled = [], 0
        if batch:
            yield batch

    def sample(self, limit_bytes: int) -> Iterator[str]:
        """Texts in the order of their keys, `limit_bytes` of them in all; the last one is cut to fit."""
        left = limit_bytes
        for index in np.argsort(np.frombuffer(self._keys, np.uint64), kind="stable") if len(self) else ():
            text = self._read(int(index), left)
            yield text
            left -= self._ends[index + 1] - self._ends[index]
            if left <= 0:
                return

    def _read(self, index: int, limit_bytes: int | None = None) -> str:
        begin, end = self._ends[index], self._ends[index + 1]
        self._file.seek(begin)
        length = end - begin if limit_bytes is None else min(end - begin, limit_bytes)
        return self._file.read(length).decode("utf-8", errors="ignore" if length < end - begin else "strict")
