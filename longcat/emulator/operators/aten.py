"""Operators of aten that torch_npu computes in its own way, or that have no CPU kernel of that name."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.emulator.reference import gradients, reference


@reference("matmul_backward")
def matmul_backward(gradient: Tensor, x: Tensor, y: Tensor, mask: list[bool]) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `x @ y`, which torch_npu differentiates as one operator."""
    if x.dim() >= 2 and y.dim() == 2:  # linear layers: one product each, without the leading dimensions
        d_x = gradient @ y.mT if mask[0] else None
        d_y = x.flatten(0, -2).mT @ gradient.flatten(0, -2) if mask[1] else None
        return d_x, d_y
    d_x, d_y = gradients(torch.matmul, [x, y], gradient)
    return d_x if mask[0] else None, d_y if mask[1] else None


@reference("npu_dtype_cast", "_npu_dtype_cast")
def dtype_cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """torch_npu's own conversion, which its autocast and its collectives use."""
    return x.to(dtype)


@reference("npu_dtype_cast_backward", "_npu_dtype_cast_backward")
def dtype_cast_backward(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """Back to the type that was cast."""
    return gradient.to(dtype)


@reference("npu_gather_backward")
def gather_backward(gradient: Tensor, sizes: list[int], dim: int, index: Tensor, sparse_grad: bool) -> Tensor:
    """Back to where each value was taken from."""
    return gradient.new_zeros(sizes).scatter_add_(dim, index, gradient)


@reference("npu_binary_cross_entropy_with_logits_backward")
def binary_cross_entropy_with_logits_backward(
    gradient: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, reduction: int
) -> Tensor | None:
    """Of the logits; `reduction` is 0 (none), 1 (mean) or 2 (sum)."""

    def loss(logits: Tensor) -> Tensor:
        how = ("none", "mean", "sum")[reduction]
        return F.binary_cross_entropy_with_logits(logits, target, weight, pos_weight=pos_weight, reduction=how)

    return gradients(loss, [x], gradient)[0]


@reference("mm.dtype")
def mm_dtype(x: Tensor, y: Tensor, out_dtype: torch.dtype) -> Tensor:
    """Product with a wider result: on a CPU the factors are widened."""
    return x.to(out_dtype) @ y.to(out_dtype)


@reference("scaled_dot_product_attention", differentiable=True)
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The CPU's flash attention where it can be had, else torch's composition. `[batch, heads, tokens, size]`."""
    flash = (
        query.dim() == 4
        and dropout_p == 0.0
        and attn_mask is None
        and query.shape[1] == key.shape[1] == value.shape[1]
        and query.shape[-1] == value.shape[-1]
        and query.numel() > 0
        and key.numel() > 0
    )
    if flash:
        operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return operator(query, key, value, 0.0, is_causal, scale=scale)[0]
    operator = torch.ops.aten._scaled_dot_product_attention_math
    return operator(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)[0]
