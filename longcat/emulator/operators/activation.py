"""Fused activations, the masked softmax, and dropout with a kept mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.emulator.reference import draw_seed, gradients, reference


def _with_gradient(name: str, backward: str, function: Callable[..., Tensor]) -> None:
    """Register an operator and its backward operator, which takes the gradient and the operator's own arguments."""

    def gradient(d_y: Tensor, x: Tensor, *options: Any, **named: Any) -> Tensor | None:
        return gradients(lambda t: function(t, *options, **named), [x], d_y)[0]

    reference(name)(function)
    reference(backward)(gradient)


def swiglu(x: Tensor, dim: int = -1) -> Tensor:
    """Compute `silu(a) * b` of the two halves of x, rounded once."""
    a, b = x.float().chunk(2, dim)
    return (F.silu(a) * b).to(x.dtype)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Compute GELU as torch does."""
    return F.gelu(x, approximate=approximate)


def fast_gelu(x: Tensor) -> Tensor:
    """Compute `x * sigmoid(1.702 x)`."""
    return x * torch.sigmoid(1.702 * x)


_with_gradient("npu_swiglu", "npu_swiglu_backward", swiglu)
_with_gradient("npu_gelu", "npu_gelu_backward", gelu)
_with_gradient("npu_fast_gelu", "npu_fast_gelu_backward", fast_gelu)


@reference("npu_silu")
def silu(x: Tensor) -> Tensor:
    """Compute SiLU as torch does."""
    return F.silu(x)


@reference("npu_silu_backward")
def silu_backward(d_y: Tensor, x: Tensor, y: Tensor) -> Tensor | None:
    """Return the gradient of x; y is not needed."""
    return gradients(F.silu, [x], d_y)[0]


@reference("npu_scaled_masked_softmax")
def scaled_masked_softmax(x: Tensor, mask: Tensor, scale: float = 1.0, fixed_triu_mask: bool = False) -> Tensor:
    """Compute the softmax of `scale * x` where the mask is 0; with `fixed_triu_mask` the mask is causal instead."""
    if fixed_triu_mask:
        mask = torch.ones(x.shape[-2:], dtype=torch.bool).triu(1)
    return (x.float() * scale).masked_fill(mask.bool(), -10000.0).softmax(-1).to(x.dtype)


@reference("npu_scaled_masked_softmax_backward")
def scaled_masked_softmax_backward(d_y: Tensor, y: Tensor, mask: Tensor, scale: float, fixed_triu_mask: bool) -> Tensor:
    """Return the gradient of x, from the result of the softmax."""
    d, probabilities = d_y.float(), y.float()
    return ((d - (d * probabilities).sum(-1, keepdim=True)) * probabilities * scale).to(y.dtype)


@reference("_npu_dropout", "_dropout_with_byte_mask")
def dropout(x: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Drop elements with probability p and scale the others by `1 / (1 - p)`; the uint8 mask is 1 for kept elements."""
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(draw_seed())) >= p
    return x * mask / (1 - p), mask.to(torch.uint8)


@reference("npu_dropout_backward", "_dropout_with_byte_mask_backward")
def dropout_backward(d_y: Tensor, mask: Tensor, p: float) -> Tensor:
    """Return the gradient of x, which passes through kept elements only."""
    return d_y * mask.to(d_y.dtype) / (1 - p)
