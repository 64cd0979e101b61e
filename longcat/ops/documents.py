"""Several documents in one row: a token reads nothing before the start of its own.

`document_starts`, int64 `[batch, seq]`, is the position at which each token's document starts, as attention, its indexer,
n-grams and multi-token prediction need it. Padding at the end of a row is a document too, which no other token reads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def find_document_starts(documents: Tensor) -> Tensor:
    """Find the position at which each token's document starts.

    Args:
        documents: `[batch, seq]`, integer; neighbours with the same number are of one document.

    Returns:
        int64 of the same shape.
    """
    new = documents != F.pad(documents, (1, 0), value=-2)[:, :-1]
    positions = torch.arange(documents.shape[1], device=documents.device)
    return positions.where(new, 0).cummax(1).values


def same_document(document_starts: Tensor, distance: int) -> Tensor:
    """Tell whether the token `distance` after each one exists and is of its document: bool `[batch, seq]`."""
    return F.pad(document_starts, (0, distance), value=-1)[:, distance:] == document_starts


def readable(document_starts: Tensor | None, queries: int, keys: int, device: torch.device) -> Tensor:
    """Tell which keys each query reads: those up to its own position, from the start of its document on.

    Args:
        document_starts: of the queries, `[batch, queries]`; none where every row is one document.
        queries: how many; they are at the last positions of the keys' sequence.
        keys: how many.
        device: of the result.

    Returns:
        Bool `[batch, queries, keys]`, or `[queries, keys]` without `document_starts`.
    """
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return seen if document_starts is None else seen & (torch.arange(keys, device=device) >= document_starts[..., None])


def has_numbers(tensor: Tensor) -> bool:
    """Tell whether the host reads a tensor at no cost.

    It waits for an accelerator, and fake tensors, which are of a class of their own, have shapes only. Documents then are not
    skipped but masked, which takes the time and memory of rows of one document.
    """
    return type(tensor) is Tensor and tensor.device.type == "cpu"


class Packed(NamedTuple):
    """Documents of all rows laid end to end, for kernels that are told where each one ends."""

    query_ends: list[int]
    """Of each document among the queries of all rows."""
    key_ends: list[int]
    """Of each document among the keys that `keys` leaves."""
    first_keys: list[int]
    """Of each row, the first key that any of its queries reads."""

    def keys(self, rows: Tensor) -> Tensor:
        """Lay the keys `[batch, keys, ...]` of all rows end to end, without those that no query reads."""
        if not any(self.first_keys):
            return rows.flatten(0, 1)
        return torch.cat([row[first:] for row, first in zip(rows, self.first_keys, strict=True)])


@lru_cache(maxsize=8)
def pack(document_starts: Tensor, keys: int) -> Packed:
    """Find where documents end whose queries are the last positions of their row's keys.

    The host waits for the device once, and not again for the same tensor: all layers of a step have it in common.

    Args:
        document_starts: of the queries, `[batch, queries]`; not changed in place.
        keys: of each row, no fewer than queries.
    """
    starts = document_starts.cpu()
    queries = starts.shape[1]
    last = torch.ones_like(starts, dtype=torch.bool)
    last[:, :-1] = starts[:, 1:] != starts[:, :-1]
    rows, places = last.nonzero(as_tuple=True)
    read = keys - starts[:, 0]  # of each row
    key_ends = read.cumsum(0)[rows] - (queries - 1 - places)
    return Packed((rows * queries + places + 1).tolist(), key_ends.tolist(), starts[:, 0].tolist())
