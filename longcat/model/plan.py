"""What the host has to know of a layer's routing: numbers of rows, read from the device once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

N = TypeVar("N", int, float)
_ROUTED_SHARES: list[float] = []


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


def plan(counts: Tensor, slots: int) -> Counts:
    """Read the rows of each expert `[experts]` from the device, where all experts are in this process; of so many `slots`."""
    experts = len(counts)
    return Counts(counts, to_host(counts, lambda: [balanced_slots(slots, experts)] * experts))


def to_host(numbers: Tensor, assumed: Callable[[], list[N]]) -> list[N]:
    """Read `[n]` numbers from the device: the only place where the host waits for a layer's routing, once in each layer.

    Shapes follow from these numbers, so the host cannot do without; everything else is queued without waiting.

    Args:
        numbers: on the device.
        assumed: gives them where tensors have shapes only.
    """
    if shapes_only(numbers):
        return assumed()
    found: list[N] = numbers.tolist()
    return found


def shapes_only(tensor: Tensor) -> bool:
    """Say whether a plain tensor is one of a dry run, without numbers; those are of a class of their own."""
    return type(tensor) is not Tensor


@contextmanager
def balanced(routed_share: float) -> Iterator[None]:
    """Assume, where tensors have shapes only, that this share of all slots is routed, equally many to each expert."""
    _ROUTED_SHARES.append(routed_share)
    try:
        yield
    finally:
        _ROUTED_SHARES.pop()


def routed_share() -> float:
    """Return the share of slots that is assumed to be routed; all, where nothing else is said."""
    return _ROUTED_SHARES[-1] if _ROUTED_SHARES else 1.0


def balanced_slots(slots: int, experts: int) -> int:
    """Return the slots of each routed expert among so many of all experts, where their number is assumed."""
    return math.ceil(slots * routed_share() / experts)


def count(numbers: Tensor, bins: int) -> Tensor:
    """Count how often each number below `bins` occurs, int64 `[bins]`; unlike bincount without waiting for the device."""
    flat = numbers.flatten()
    return flat.new_zeros(bins).scatter_add_(0, flat, torch.ones_like(flat))
