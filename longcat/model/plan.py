"""What the host has to know of a layer's routing: numbers of rows, read from the device once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Counts(NamedTuple):
    """Rows of each expert, in both places where they are needed."""

    device: Tensor
    """Integer `[experts]`."""
    host: list[int]
    """The same numbers."""

    @property
    def rows(self) -> int:
        """Of all experts."""
        return sum(self.host)


def plan(counts: Tensor) -> Counts:
    """Read the rows of each expert `[experts]` from the device, where all experts are in this process."""
    return Counts(counts, to_host(counts))


def to_host(numbers: Tensor) -> list[int]:
    """Read `[n]` numbers from the device: the only place where the host waits for a layer's routing, once in each layer.

    Shapes follow from these numbers, so the host cannot do without; everything else is queued without waiting.
    """
    found: list[int] = numbers.tolist()
    return found


def count(numbers: Tensor, bins: int) -> Tensor:
    """Count how often each number below `bins` occurs, int64 `[bins]`; unlike bincount without waiting for the device."""
    flat = numbers.flatten()
    return flat.new_zeros(bins).scatter_add_(0, flat, torch.ones_like(flat))
