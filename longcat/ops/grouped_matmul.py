"""Matrix products of consecutive groups of rows, each with its own weight: the experts' one operation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from longcat.accelerator import npu_operator
from longcat.ops.registry import SampleInputs, operator

ROW_MULTIPLE = 32
"""In training on a CPU products have a multiple of this many rows: a kernel is built for every new shape, which costs as
much as the product itself, and the experts' loads are different in every step."""
MOST_GROUPS = 1024
"""npu_grouped_matmul accepts 2 to 1024 groups when the weights are one stacked tensor."""
INNER_LIMIT = 65_536
"""The matrices of npu_grouped_matmul are narrower than this."""


def _sample_inputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    yield draw(144, 32), draw(4, 16, 32), torch.tensor([3, 0, 140, 1]), [3, 0, 140, 1]


@operator("grouped_matmul", _sample_inputs)
def grouped_matmul(x: Tensor, weight: Tensor, counts: Tensor, rows: Sequence[int]) -> Tensor:
    """Multiply the rows of group g by `weight[g]` transposed.

    The weight of a group without rows gets a gradient of zeros, not None. What is not finite in one group's rows does not
    reach the gradients of the others.

    Args:
        x: `[rows, in]`, sorted by group, `counts.sum() == rows`.
        weight: `[groups, out, in]`.
        counts: `[groups]`, integer rows of each group.
        rows: the same numbers on the host, so that no product waits for the device to tell them.

    Returns:
        `[rows, out]`.
    """
    return torch.cat([F.linear(part, weight[group]) for group, part in enumerate(x.split(list(rows)))])


def _no_rows(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply no rows, and keep the weight in the graph."""
    return x @ weight.sum(0).transpose(0, 1)


@grouped_matmul.implementation("cpu")
def _cpu_grouped_matmul(x: Tensor, weight: Tensor, counts: Tensor, rows: Sequence[int]) -> Tensor:
    if x.shape[0] == 0:
        return _no_rows(x, weight)
    if not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)) and max(rows) < ROW_MULTIPLE:
        return _few_rows(x, weight, rows)
    out: Tensor = _GroupedMatmul.apply(x, weight, rows)
    return out


def _cuda_unsupported_reason(x: Tensor, weight: Tensor, counts: Tensor, rows: Sequence[int]) -> str | None:
    """Say whether rows do not start at multiples of 16 bytes on both sides of the product, as torch's kernel needs them."""
    if any(size * x.element_size() % 16 for size in weight.shape[1:]):
        return f"rows of weights {list(weight.shape)} in {x.dtype} do not start at multiples of 16 bytes"
    return None


@grouped_matmul.implementation("cuda", unsupported_reason=_cuda_unsupported_reason)
def _cuda_grouped_matmul(x: Tensor, weight: Tensor, counts: Tensor, rows: Sequence[int]) -> Tensor:
    if x.shape[0] == 0:
        return _no_rows(x, weight)
    return F.grouped_mm(x, weight.transpose(-2, -1), offs=counts.cumsum(0).to(torch.int32))


def _npu_unsupported_reason(x: Tensor, weight: Tensor, counts: Tensor, rows: Sequence[int]) -> str | None:
    groups, *sizes = weight.shape
    if not 2 <= groups <= MOST_GROUPS:
        return f"{groups} groups, not 2 to {MOST_GROUPS}"
    if max(sizes) >= INNER_LIMIT:
        return f"weights of {sizes[0]} x {sizes[1]} reach {INNER_LIMIT}"
    return None


@grouped_matmul.implementation("npu", unsupported_reason=_npu_unsupported_reason)
def _npu_grouped_matmul(x: Tensor, weight: Tensor, counts: Tensor, rows: Sequence[int]) -> Tensor:
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
    """Multiply rows of `a` by their group's `b[g]` (type 0), or a group's columns of `a` by its rows of `b` (type 2)."""
    [out] = npu_operator("npu_grouped_matmul")(
        [a], [b], group_list=counts.long(), split_item=3, group_type=group_type, group_list_type=1
    )
    result: Tensor = out
    return result


class _GroupedMatmul(torch.autograd.Function):
    """The products on a CPU, over rows that are laid out anew: each group starts at a multiple of `ROW_MULTIPLE`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, counts: Sequence[int]) -> Tensor:
        aligned = _aligned_rows(x, counts)
        ctx.save_for_backward(aligned, weight)
        ctx.counts = counts
        return _products(aligned, weight.mT, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = _aligned_rows(gradients[0], ctx.counts)
        d_weight = _weight_gradients(gradient, x, ctx.counts)
        return _products(gradient, weight, ctx.counts), d_weight, None


# each loop over groups is one operator to what looks at operators
@torch.library.custom_op("longcat::aligned_rows", mutates_args=())
def _aligned_rows(x: Tensor, counts: Sequence[int]) -> Tensor:
    """Copy the rows of each group to the next multiple of `ROW_MULTIPLE`; between them are zeros.

    So no product reads another group's rows: what is not finite there would spoil a sum, also when it is multiplied by 0.
    """
    aligned = x.new_empty(_aligned_sum(counts), x.shape[1])
    source = target = 0
    for count in counts:
        end = target + count
        aligned[target:end] = x[source : source + count]
        target += _aligned(count)
        aligned[end:target] = 0
        source += count
    return aligned


@_aligned_rows.register_fake
def _(x: Tensor, counts: Sequence[int]) -> Tensor:
    return x.new_empty(_aligned_sum(counts), x.shape[1])


@torch.library.custom_op("longcat::grouped_products", mutates_args=())
def _products(aligned: Tensor, weight: Tensor, counts: Sequence[int]) -> Tensor:
    """Multiply the rows of each group, as `_aligned_rows` lays them, by its `weight[g]` `[in, out]`: `[rows, out]`.

    A product may write over its group's end: the next group's own product follows.
    """
    rows = sum(counts)
    out = aligned.new_empty(rows, weight.shape[2])
    source = target = 0
    for group, count in enumerate(counts):
        end = source + _aligned(count)
        if target + end - source <= rows:
            torch.mm(aligned[source:end], weight[group], out=out[target : target + end - source])
        elif count:
            out[target : target + count] = torch.mm(aligned[source:end], weight[group])[:count]
        source, target = end, target + count
    return out


@_products.register_fake
def _(aligned: Tensor, weight: Tensor, counts: Sequence[int]) -> Tensor:
    return aligned.new_empty(sum(counts), weight.shape[2])


@torch.library.custom_op("longcat::grouped_weight_gradients", mutates_args=())
def _weight_gradients(gradient: Tensor, aligned: Tensor, counts: Sequence[int]) -> Tensor:
    """Multiply the rows of each group's gradient, transposed, by its rows: `[groups, out, in]`."""
    out = gradient.new_empty(len(counts), gradient.shape[1], aligned.shape[1])
    start = 0
    for group, count in enumerate(counts):
        end = start + _aligned(count)
        torch.mm(gradient[start:end].mT, aligned[start:end], out=out[group])
        start = end
    return out


@_weight_gradients.register_fake
def _(gradient: Tensor, aligned: Tensor, counts: Sequence[int]) -> Tensor:
    return gradient.new_empty(len(counts), gradient.shape[1], aligned.shape[1])


@register_flop_formula(torch.ops.longcat.grouped_products)
def _product_flops(aligned: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * aligned[0] * weight[1] * weight[2]


@register_flop_formula(torch.ops.longcat.grouped_weight_gradients)
def _gradient_flops(gradient: Sequence[int], aligned: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * gradient[0] * gradient[1] * aligned[1]


def _few_rows(x: Tensor, weight: Tensor, counts: Sequence[int]) -> Tensor:
    """Multiply each group without spare rows and without a gradient."""
    matrices = [weight[group] for group, count in enumerate(counts) if count]
    rows = x.split([count for count in counts if count])
    return torch.cat([F.linear(part, matrix) for part, matrix in zip(rows, matrices, strict=True)])


def _aligned(count: int) -> int:
    return -(-count // ROW_MULTIPLE) * ROW_MULTIPLE


def _aligned_sum(counts: Sequence[int]) -> int:
    return sum(map(_aligned, counts))
