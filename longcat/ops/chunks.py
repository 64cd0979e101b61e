"""How operators cut their work, so that memory does not grow with it: pieces for the cache of a CPU, few for an accelerator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from longcat.accelerator import Kind

ACCELERATOR_ELEMENTS = 134_217_728
"""Numbers that the largest intermediate result of a chunk may have on an accelerator: 0.5 GiB in fp32."""
_SIZED_FOR: list[Kind] = []


@contextmanager
def sized_for(kind: Kind) -> Iterator[None]:
    """Cut work as for a device of this kind, in the whole process, whatever device the tensors are on.

    A dry run has fake tensors of a CPU: with this they take the memory that an accelerator's would, and a few large
    operators instead of many thousand small ones. No number is computed in another way but for where sums are cut.
    """
    _SIZED_FOR.append(kind)
    try:
        yield
    finally:
        _SIZED_FOR.pop()


def size_kind(tensor: Tensor) -> str:
    """Return the kind of device whose memory the chunks of a tensor are sized for."""
    return _SIZED_FOR[-1] if _SIZED_FOR else tensor.device.type


def spans(tensor: Tensor, count: int, elements_each: int, cached: int) -> Iterator[tuple[int, int]]:
    """Cut `count` queries, or the like, into begin and end of each chunk.

    Args:
        tensor: on the device that computes.
        count: of what is cut.
        elements_each: numbers of the largest intermediate result for each of them.
        cached: numbers that this result may have on a CPU.
    """
    size = max(1, (cached if size_kind(tensor) == "cpu" else ACCELERATOR_ELEMENTS) // max(1, elements_each))
    for start in range(0, count, size):
        yield start, min(start + size, count)
