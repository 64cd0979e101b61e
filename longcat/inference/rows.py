"""Rows of unequal length in one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Lay rows of tokens into one tensor, with padding at the right.

    Returns:
        int64 `[rows, longest]`, and bool of the same shape, true for padding; None where there is none.
    """
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    if min(lengths) == longest:
        return tokens, None
    positions = torch.arange(longest, device=device)
    return tokens, positions >= torch.tensor(lengths, device=device)[:, None]
