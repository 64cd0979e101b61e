"""Several documents in one row: a token reads nothing before the start of its own.

`document_starts`, int64 `[batch, seq]`, is the position at which each token's document starts, as attention, its indexer,
n-grams and multi-token prediction need it. Padding at the end of a row is a document too, which no other token reads.
"""

from __future__ import annotations

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
