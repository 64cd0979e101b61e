"""Fused normalisation."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.reference import reference


@reference("npu_rms_norm")
def rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """`x / rms(x) * gamma` over gamma's dimensions, and `1 / rms(x)` in float32 with those of size 1."""
    dimensions = tuple(range(-gamma.dim(), 0))
    reciprocal = torch.rsqrt(x.float().square().mean(dimensions, keepdim=True) + epsilon)
    return (x.float() * reciprocal * gamma.float()).to(x.dtype), reciprocal


@reference("npu_rms_norm_backward")
def rms_norm_backward(d_y: Tensor, x: Tensor, gamma: Tensor, reciprocal: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x, in its type, and of gamma, in float32."""
    dimensions = tuple(range(-gamma.dim(), 0))
    normal, scaled = x.float() * reciprocal, d_y.float() * gamma.float()
    d_x = reciprocal * (scaled - normal * (scaled * normal).mean(dimensions, keepdim=True))
    return d_x.to(x.dtype), (d_y.float() * normal).reshape(-1, *gamma.shape).sum(0)


@reference("npu_add_rms_norm")
def add_rms_norm(x: Tensor, residual: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of a sum, `1 / rms`, and the sum."""
    total = x + residual
    return *rms_norm(total, gamma, epsilon), total


@reference("npu_gemma_rms_norm")
def gemma_rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """The same with a weight of `1 + gamma`."""
    return rms_norm(x, 1 + gamma.float(), epsilon)
