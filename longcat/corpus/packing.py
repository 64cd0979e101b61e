"""Documents joined into one stream of tokens, and the stream cut into rows.

Every document is followed by the end-of-text token. With sequence length L, row i holds tokens i*L to i*L + L (both
included): the last token of a row is the first of the next, so that every token but the very first is a target once.
Only what is left at the end and fills no row is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PackedRows:
    """A run of consecutive rows."""

    rows: np.ndarray
    """Tokens, `[rows, sequence_length + 1]`."""
    documents: np.ndarray
    """Where documents start, int32 `[k, 2]`: row (from the beginning of this run) and column."""


class Packer:
    """Packs documents in the order they come, `rows_per_run` rows at a time."""

    def __init__(self, sequence_length: int, rows_per_run: int, end_of_text: int, dtype: type[np.generic]) -> None:
        self.sequence_length = sequence_length
        self.end_of_text = end_of_text
        self.rows = 0
        """Rows handed out so far."""
        self.tokens = 0
        """Tokens of the stream so far, end-of-text included."""
        self._buffer = np.empty(rows_per_run * sequence_length + 1, dtype)
        self._filled = 0
        self._starts: list[int] = []

    def add(self, tokens: np.ndarray) -> Iterator[PackedRows]:
        """Append a document; yields each run of rows that it completes."""
        self._starts.append(self._filled)
        yield from self._append(tokens)
        yield from self._append(np.array([self.end_of_text]))

    def finish(self) -> Iterator[PackedRows]:
        """Yield the last rows, if there are any."""
        rows = max(0, self._filled - 1) // self.sequence_length
        if rows:
            yield self._cut(rows)

    @property
    def tail_tokens(self) -> int:
        """Tokens at the end of the stream that are in no row (after `finish`)."""
        return self.tokens - (self.rows * self.sequence_length + 1 if self.rows else 0)

    def _append(self, tokens: np.ndarray) -> Iterator[PackedRows]:
        self.tokens += len(tokens)
        while len(tokens):
            part = tokens[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            tokens = tokens[len(part) :]
            if self._filled == len(self._buffer):
                yield self._cut((self._filled - 1) // self.sequence_length)

    def _cut(self, rows: int) -> PackedRows:
        """Take `rows` rows from the buffer; their last token stays, as the first of the next row."""
        end = rows * self.sequence_length
        windows = np.lib.stride_tricks.sliding_window_view(self._buffer[: end + 1], self.sequence_length + 1)
        starts = np.array([start for start in self._starts if start < end], np.int64)
        run = PackedRows(
            rows=windows[:: self.sequence_length].copy(),
            documents=np.stack(np.divmod(starts, self.sequence_length), axis=1).astype(np.int32),
        )
        self._starts = [start - end for start in self._starts if start >= end]
        self._filled -= end
        self._buffer[: self._filled] = self._buffer[end : end + self._filled].copy()
        self.rows += rows
        return run
