"""Matrix products of consecutive groups of rows, each with its own weight: the experts' one operation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.accelerator import npu_operator
from longcat.ops.registry import SampleInputs, operator

ROW_MULTIPLE = 32
"""On a CPU products are made with a multiple of so many rows: a kernel is built for every new shape, which costs as much
as the product itself, and the experts' loads are different in every step."""
MOST_GROUPS = 1024
"""Of npu_grouped_matmul with weights in one tensor; a list of counts with a single entry is refused too."""
INNER_LIMIT = 65_536
"""No matrix of npu_grouped_matmul reaches this width."""


def _sample_inputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    yield draw(144, 32), draw(4, 16, 32), torch.tensor([3, 0, 140, 1])


@operator("grouped_matmul", _sample_inputs)
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
    groups = x.split(counts.tolist())
    return torch.cat([F.linear(rows, weight[group]) for group, rows in enumerate(groups)])


def _no_rows(x: Tensor, weight: Tensor) -> Tensor:
    """The product of nothing, which keeps the weight in the graph."""
    return x @ weight.sum(0).transpose(0, 1)


@grouped_matmul.implementation("cpu")
def _cpu_grouped_matmul(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    if x.shape[0] == 0:
        return _no_rows(x, weight)
    out: Tensor = _GroupedMatmul.apply(x, weight, counts.tolist())
    return out


def _cuda_unsupported_reason(x: Tensor, weight: Tensor, counts: Tensor) -> str | None:
    """Torch's kernel wants rows that start at multiples of 16 bytes, on both sides of the product."""
    if any(size * x.element_size() % 16 for size in weight.shape[1:]):
        return f"rows of weights {list(weight.shape)} in {x.dtype} do not start at multiples of 16 bytes"
    return None


@grouped_matmul.implementation("cuda", unsupported_reason=_cuda_unsupported_reason)
def _cuda_grouped_matmul(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    if x.shape[0] == 0:
        return _no_rows(x, weight)
    return F.grouped_mm(x, weight.transpose(-2, -1), offs=counts.cumsum(0).to(torch.int32))


def _npu_unsupported_reason(x: Tensor, weight: Tensor, counts: Tensor) -> str | None:
    groups, *sizes = weight.shape
    if not 2 <= groups <= MOST_GROUPS:
        return f"{groups} groups, not 2 to {MOST_GROUPS}"
    if max(sizes) >= INNER_LIMIT:
        return f"weights of {sizes[0]} x {sizes[1]} reach {INNER_LIMIT}"
    return None


@grouped_matmul.implementation("npu", unsupported_reason=_npu_unsupported_reason)
def _npu_grouped_matmul(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    if x.shape[0] == 0:
        return _no_rows(x, weight)
    out: Tensor = _NpuGroupedMatmul.apply(x, weight, counts)
    return out


class _NpuGroupedMatmul(torch.autograd.Function):
    """torch_npu has no gradient for its operator. A transposed operand has to be a view, not a copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, counts)
        return _npu_product(x, weight.mT, counts, group_type=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, counts = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        d_x = _npu_product(gradient, weight, counts, group_type=0) if ctx.needs_input_grad[0] else None
        d_weight = _npu_product(gradient.mT, x, counts, group_type=2) if ctx.needs_input_grad[1] else None
        return d_x, d_weight, None


def _npu_product(a: Tensor, b: Tensor, counts: Tensor, group_type: int) -> Tensor:
    """Type 0: rows of `a` in groups times `b[g]`. Type 2: columns of `a` times rows of `b`, a product a group."""
    [out] = npu_operator("npu_grouped_matmul")(
        [a], [b], group_list=counts.long(), split_item=3, group_type=group_type, group_list_type=1
    )
    result: Tensor = out
    return result


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
