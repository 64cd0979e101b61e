"""Matrix products of consecutive groups of rows, each with its own weight: the experts' one operation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROW_MULTIPLE = 32
"""On a CPU products are made with a multiple of so many rows: a kernel is built for every new shape, which costs as much
as the product itself, and the experts' loads are different in every step."""


def grouped_matmul(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Rows of group g times `weight[g]` transposed.

    A group without rows gives its weight a gradient of zeros, not none.

    Args:
        x: `[rows, in]`, sorted by group, `counts.sum() == rows`.
        weight: `[groups, out, in]`.
        counts: `[groups]`, integer rows of each group.

    Returns:
        `[rows, out]`.
    """
    if x.shape[0] == 0:  # keep the weight in the graph
        return x @ weight.sum(0).transpose(0, 1)
    if x.device.type == "cpu":
        out: Tensor = _GroupedMatmul.apply(x, weight, counts.tolist())
        return out
    # torch's kernel wants rows that start at multiples of 16 bytes, on both sides of the product
    if any(size * x.element_size() % 16 for size in weight.shape[1:]):
        return grouped_matmul_reference(x, weight, counts)
    return F.grouped_mm(x, weight.transpose(-2, -1), offs=counts.cumsum(0).to(torch.int32))


def grouped_matmul_reference(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """The same, a product a group."""
    groups = x.split(counts.tolist())
    return torch.cat([F.linear(rows, weight[group]) for group, rows in enumerate(groups)])


class _GroupedMatmul(torch.autograd.Function):
    """For a CPU. A product may reach over its group's end into the rows of the next one, whose own product follows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, counts: list[int]) -> Tensor:
        padded = F.pad(x, (0, 0, 0, ROW_MULTIPLE))
        ctx.save_for_backward(padded, weight)
        ctx.counts = counts
        return _products(padded, weight.mT, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = F.pad(gradients[0], (0, 0, 0, ROW_MULTIPLE))
        d_weight = torch.empty_like(weight)
        start = 0
        for group, count in enumerate(ctx.counts):
            rows = _aligned(count)
            own = gradient[start : start + rows]
            if rows > count:  # what belongs to the next group must not count
                own = own.clone()
                own[count:] = 0
            torch.mm(own.mT, x[start : start + rows], out=d_weight[group])
            start += count
        return _products(gradient, weight, ctx.counts), d_weight, None


def _products(x: Tensor, weight: Tensor, counts: list[int]) -> Tensor:
    """Rows of each group times its `weight[g]` `[in, out]`; x has `ROW_MULTIPLE` rows more than the groups."""
    out = x.new_empty(x.shape[0], weight.shape[2])
    start = 0
    for group, count in enumerate(counts):
        rows = _aligned(count)
        torch.mm(x[start : start + rows], weight[group], out=out[start : start + rows])
        start += count
    return out[: x.shape[0] - ROW_MULTIPLE]


def _aligned(count: int) -> int:
    return -(-count // ROW_MULTIPLE) * ROW_MULTIPLE
