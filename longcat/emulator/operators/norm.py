"""Fused normalisation."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.reference import reference


@reference("npu_rms_norm")
def rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Compute `x / rms(x) * gamma` over gamma's dimensions, and `1 / rms(x)` in float32 with those of size 1."""
    dimensions = tuple(range(-gamma.dim(), 0))
    reciprocal = torch.rsqrt(x.float().square().mean(dimensions, keepdim=True) + epsilon)
    return (x.float() * reciprocal * gamma.float()).to(x.dtype), reciprocal


@reference("npu_rms_norm_backward")
def rms_norm_backward(d_y: Tensor, x: Tensor, gamma: Tensor, reciprocal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, in its type, and of gamma, in float32."""
    dimensions = tuple(range(-gamma.dim(), 0))
    normal, scaled = x.float() * reciprocal, d_y.float() * gamma.float()
    d_x = reciprocal * (scaled - normal * (scaled * normal).mean(dimensions, keepdim=True))
    return d_x.to(x.dtype), (d_y.float() * normal).reshape(-1, *gamma.shape).sum(0)


@reference("npu_add_rms_norm")
def add_rms_norm(x: Tensor, residual: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norm of a sum, `1 / rms`, and the sum."""
    total = x + residual
    return *rms_norm(total, gamma, epsilon), total


@reference("npu_gemma_rms_norm")
def gemma_rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Compute `rms_norm` with a weight of `1 + gamma`."""
    return rms_norm(x, 1 + gamma.float(), epsilon)


def _per_channel(statistic: Tensor, x: Tensor) -> Tensor:
    """Reshape `[channels]` to broadcast over `[batch, channels, ...]`."""
    return statistic.reshape(1, -1, *[1] * (x.dim() - 2))


def _sums(x: Tensor) -> Tensor:
    return x.float().transpose(0, 1).flatten(1).sum(1)


@reference("batch_norm_stats")
def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and inverse standard deviation per channel, which synchronized batch norm gathers from all ranks."""
    variance, mean = torch.var_mean(x.float().transpose(0, 1).flatten(1), 1, correction=0)
    return mean, (variance + eps).rsqrt()


@reference("batch_norm_gather_stats_with_counts")
def batch_norm_gather_stats_with_counts(
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    """Combine the statistics `[ranks, channels]` of all ranks, and update the running statistics."""
    total, weights = counts.sum(), counts.reshape(-1, 1)
    whole = (mean * weights).sum(0) / total
    variance = ((invstd**-2 - eps + (mean - whole) ** 2) * weights).sum(0) / total
    if running_mean is not None:
        running_mean.lerp_(whole.to(running_mean.dtype), momentum)
    if running_var is not None:
        running_var.lerp_((variance * total / (total - 1)).to(running_var.dtype), momentum)
    return whole, (variance + eps).rsqrt()


@reference("batch_norm_elemt")
def batch_norm_elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, eps: float
) -> Tensor:
    """Normalise with the given statistics."""
    y = (x.float() - _per_channel(mean, x)) * _per_channel(invstd, x)
    y = y if weight is None else y * _per_channel(weight, x)
    return (y if bias is None else y + _per_channel(bias, x)).to(x.dtype)


@reference("batch_norm_backward_reduce")
def batch_norm_backward_reduce(
    d_y: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None, *wanted: bool
) -> tuple[Tensor, ...]:
    """Return this rank's sums of the gradient and of its product with `x - mean`, and gradients of weight and bias."""
    sums, products = _sums(d_y), _sums(d_y.float() * (x - _per_channel(mean, x)))
    dtype = x.dtype if weight is None else weight.dtype
    return sums, products, (products * invstd).to(dtype), sums.to(dtype)


@reference("batch_norm_backward_elemt")
def batch_norm_backward_elemt(
    d_y: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    sums: Tensor,
    products: Tensor,
    count: Tensor,
) -> Tensor:
    """Return the gradient of x, from the sums of all ranks."""
    total = count.sum()
    through_mean = _per_channel(sums / total, x)
    through_deviation = (x.float() - _per_channel(mean, x)) * _per_channel(products / total * invstd**2, x)
    scale = invstd if weight is None else invstd * weight
    return ((d_y.float() - through_mean - through_deviation) * _per_channel(scale, x)).to(x.dtype)
