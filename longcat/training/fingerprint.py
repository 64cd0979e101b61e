"""Fingerprints of tensors: equal for equal bits, and another one for every single bit that is flipped."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

_PIECE = 1 << 22
"""Numbers that are added up at a time."""
_WHOLE: dict[int, torch.dtype] = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprint(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's bits, read as whole numbers x_i, times 2 i + 1, modulo 2^64.

    A flipped bit changes one x_i by a power of two, and an odd multiple of that is never 0. Of a DTensor it is that of this
    process' part.

    Returns:
        int64 scalar on the tensor's device.
    """
    part = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    numbers = part.detach().contiguous().view(-1).view(_WHOLE[part.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=part.device)
    for first in range(0, len(numbers), _PIECE):
        piece = numbers[first : first + _PIECE].long()
        weights = torch.arange(2 * first + 1, 2 * (first + len(piece)) + 1, 2, device=part.device)
        total += (piece * weights).sum()
    return total
