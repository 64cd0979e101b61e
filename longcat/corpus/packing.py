"""Segments of documents packed into rows: best fit, so that few documents are cut and little is padding.

Ding et al., "Fewer Truncations Improve Language Modeling" (arXiv 2404.10830): documents longer than a row are cut into
whole rows and a rest; rests and shorter documents, the longest first, go where they leave the least room. If padding is
above a limit, the emptiest rows are given up and what they held is cut to fill the others.

A row has one token more than the model sees, and a document that is cut goes on with the token that it was cut at: so
every token but a document's first is predicted once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Segments:
    """Consecutive tokens of documents; arrays are `[segments]`, int64."""

    document: np.ndarray
    """Number of the document, as the caller counts."""
    offset: np.ndarray
    """First token, counted from the document's beginning."""
    length: np.ndarray
    """Tokens."""

    def __len__(self) -> int:
        return len(self.document)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The three arrays: document, offset, length."""
        return self.document, self.offset, self.length

    def take(self, places: np.ndarray | slice) -> Segments:
        """Select segments by their places."""
        return Segments(*(array[places] for array in self.arrays))


def split_documents(documents: np.ndarray, tokens: np.ndarray, width: int) -> Segments:
    """Split documents that are longer than a row into segments.

    Args:
        documents: their numbers, in order.
        tokens: of each, at least 1.
        width: tokens of a row.
    """
    counts = np.maximum(1, -(-(tokens.astype(np.int64) - 1) // (width - 1)))
    owner = np.repeat(np.arange(len(documents)), counts)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    offset = place * (width - 1)
    return Segments(
        documents[owner].astype(np.int64), offset, np.minimum(width, tokens.astype(np.int64)[owner] - offset)
    )


@dataclass(frozen=True)
class Packed:
    """Segments with their places, sorted by row and column."""

    segments: Segments
    row: np.ndarray
    column: np.ndarray
    rows: int

    @property
    def used(self) -> np.ndarray:
        """Tokens in each row that are not padding, int64 `[rows]`."""
        return np.bincount(self.row, self.segments.length, self.rows).astype(np.int64)


def pack(segments: Segments, width: int, max_padding: float) -> Packed:
    """Find a place for every segment.

    Args:
        segments: none longer than `width`.
        width: tokens of a row.
        max_padding: fraction of padding above which segments are cut to fill rows; only a last row may then have more.
    """
    row = _best_fit(segments.length, width)
    rows = int(row.max()) + 1 if len(row) else 0
    packed = _ordered(segments, row, rows)
    padding = rows * width - int(segments.length.sum())
    return packed if padding <= max_padding * rows * width else _dissolve(packed, width, max_padding)


def _best_fit(lengths: np.ndarray, width: int) -> np.ndarray:
    """Return the row of each segment, int64, by best fit decreasing."""
    row = np.empty(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    whole = int((lengths == width).sum())
    row[order[:whole]] = np.arange(whole)
    rows = whole
    open_rows: list[list[int]] = [[] for _ in range(width)]  # by the room they have
    rooms = 0  # bit r is set if some row has room for r
    for segment, length in zip(order[whole:].tolist(), lengths[order[whole:]].tolist(), strict=True):
        enough = rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            chosen = open_rows[room].pop()
            if not open_rows[room]:
                rooms ^= 1 << room
        else:
            room, chosen = width, rows
            rows += 1
        row[segment] = chosen
        if room > length:
            open_rows[room - length].append(chosen)
            rooms |= 1 << (room - length)
    return row


def _dissolve(packed: Packed, width: int, max_padding: float) -> Packed:
    """Dissolve the emptiest rows one by one, and cut their segments to fill the next emptiest."""
    used = packed.used
    room = (width - used).tolist()
    begins = np.searchsorted(packed.row, np.arange(packed.rows + 1)).tolist()
    queue = deque(np.argsort(used, kind="stable").tolist())
    padding, rows, taker = sum(room), packed.rows, -1
    stays = np.ones(len(packed.row), bool)
    moved: list[tuple[int, int, int, int]] = []  # document, offset, length, row
    while queue and padding > max_padding * rows * width:
        giver = queue.popleft()
        stays[begins[giver] : begins[giver + 1]] = False
        kept = 0
        for segment in range(begins[giver], begins[giver + 1]):
            document, offset, length = (int(array[segment]) for array in packed.segments.arrays)
            while length:
                if taker < 0 or room[taker] < 2:
                    if not queue:  # no more room anywhere: the rest stays in this row
                        moved.append((document, offset, length, giver))
                        kept += length
                        break
                    taker = queue.popleft()
                    continue
                part = min(length, room[taker])
                moved.append((document, offset, part, taker))
                room[taker] -= part
                padding -= part
                if part == length:
                    break
                # the rest goes on with the token it was cut at, which is stored twice
                offset, length = offset + part - 1, length - part + 1
        padding += width - kept - room[giver] if kept else -room[giver]
        rows -= not kept
    new = np.array(moved, np.int64).reshape(-1, 4).T
    old = packed.segments.take(stays)
    both = Segments(*(np.concatenate(pair) for pair in zip(old.arrays, new[:3], strict=True)))
    _, row = np.unique(np.concatenate([packed.row[stays], new[3]]), return_inverse=True)
    return _ordered(both, row, rows)


def _ordered(segments: Segments, row: np.ndarray, rows: int) -> Packed:
    order = np.argsort(row, kind="stable")
    segments, row = segments.take(order), row[order]
    ends = np.cumsum(segments.length)
    first = np.searchsorted(row, row)  # the first segment of the same row
    return Packed(segments, row, ends - segments.length - (ends - segments.length)[first], rows)
