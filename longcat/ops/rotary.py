"""Rotary position embedding over interleaved pairs, as LongCat and DeepSeek lay them out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from longcat.accelerator import npu_operator
from longcat.config import RopeScalingConfig
from longcat.ops.registry import SampleInputs, operator

INNER_LIMIT = 896
"""npu_rotary_mul accepts heads smaller than this."""
COUNT_LIMIT = 1000
"""npu_rotary_mul accepts fewer rows of a batch, and fewer heads, than this."""
COMPILED_WIDTH = 64
"""torchair converts its gradient for heads of a multiple of this."""


def rotary_angles(
    positions: Tensor, dim: int, theta: float, scaling: RopeScalingConfig | None = None
) -> tuple[Tensor, Tensor]:
    """Compute cosine and sine of position times frequency, `theta ** (-2i / dim)` for pair i (arXiv 2104.09864, eq. 15).

    With `scaling` frequencies are YaRN's, and both results carry its factor for the rotated part.

    Args:
        positions: `[...]`, integer.
        dim: rotated dimensions of a head, even.
        theta: base of the frequencies.
        scaling: YaRN.

    Returns:
        Two fp32 tensors `[..., dim / 2]`.
    """
    pairs = torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device)
    frequencies, size = 1.0 / theta ** (pairs / dim), 1.0
    if scaling is not None:
        frequencies = _yarn(frequencies, theta, scaling)
        size = _rotated_size(scaling)
    angles = positions.float().unsqueeze(-1) * frequencies
    return angles.cos() * size, angles.sin() * size


def softmax_sharpening(scaling: RopeScalingConfig | None) -> float:
    """Return YaRN's factor on the scores of attention (arXiv 2309.00071, eq. 22, as DeepSeek-V2 places it)."""
    return 1.0 if scaling is None or not scaling.mscale_all_dim else _mscale(scaling, scaling.mscale_all_dim) ** 2


def _rotated_size(scaling: RopeScalingConfig) -> float:
    """Factor on cosine and sine, as transformers' `_compute_yarn_parameters` has it."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return _mscale(scaling, scaling.mscale) / _mscale(scaling, scaling.mscale_all_dim)
    return _mscale(scaling, 1.0)


def _mscale(scaling: RopeScalingConfig, m: float) -> float:
    return 0.1 * m * math.log(scaling.factor) + 1.0


def _yarn(frequencies: Tensor, theta: float, scaling: RopeScalingConfig) -> Tensor:
    """Slow down the pairs that turn seldom, keep those that turn often, and blend between (arXiv 2309.00071, section 3.2)."""
    dim = 2 * len(frequencies)

    def pair_that_turns(times: float) -> float:
        length = scaling.original_max_position_embeddings
        return dim * math.log(length / (times * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    pairs = torch.arange(len(frequencies), dtype=torch.float32, device=frequencies.device)
    slowed = ((pairs - first) / (last - first or 0.001)).clamp(0, 1)
    return frequencies * (1 - slowed) + frequencies / scaling.factor * slowed


def _sample_inputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    cos, sin = rotary_angles(torch.arange(5), 16, 100.0)
    yield draw(2, 5, 3, 16), cos, sin
    cos, sin = rotary_angles(torch.arange(10).view(2, 5), 16, 100.0)  # rows of unequal length
    yield draw(2, 5, 3, 16), cos, sin


@operator("rotary", _sample_inputs)
def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i+1) of the last axis; the result holds all first halves, then all second halves.

    Query and key are permuted the same way, so dot products are those of the interleaved layout.

    Args:
        x: `[..., seq, heads, dim]`.
        cos: `[seq, dim / 2]`, or `[..., seq, dim / 2]` where rows are at positions of their own.
        sin: the same shape.
    """
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], dim=-1)


def _unsupported_reason(x: Tensor, cos: Tensor, sin: Tensor) -> str | None:
    if x.dim() != 4:
        return "x is not [batch, seq, heads, dim]"
    if max(x.shape[0], x.shape[2]) >= COUNT_LIMIT or x.shape[3] >= INNER_LIMIT:
        return f"x is {list(x.shape)}: batch and heads have to be less than {COUNT_LIMIT}, dim than {INNER_LIMIT}"
    return None


@rotate.implementation("npu", unsupported_reason=_unsupported_reason)
def _npu_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    if torch.compiler.is_compiling() and x.shape[3] % COMPILED_WIDTH:
        return rotate.reference(x, cos, sin)
    halves = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    if cos.dim() == 3:  # the kernel knows angles that all rows share
        halves = halves.flatten(0, 1)[None]
    cos, sin = (torch.cat([of, of], dim=-1).view(1, -1, 1, x.shape[3]).to(x.dtype) for of in (cos, sin))
    y: Tensor = npu_operator("npu_rotary_mul")(halves, cos, sin)
    return y.view(x.shape)


@rotate.implementation("cpu")
def _cpu_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate fp32 pairs as complex numbers, and others in four passes over half of the numbers each, forward and backward.

    A compiler fuses the reference itself.
    """
    if torch.compiler.is_compiling():
        return rotate.reference(x, cos, sin)
    if torch.is_grad_enabled() and x.requires_grad:
        turned: Tensor = _Rotate.apply(x, cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype))
        return turned
    if x.dtype == torch.float32 and _has_pairs(x):
        turn = torch.complex(cos, sin).unsqueeze(-2)
        pairs = torch.view_as_complex(x.view(*x.shape[:-1], -1, 2)) * turn
        return torch.view_as_real(pairs).mT.flatten(-2)
    return _rotated(x, cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype))


def _has_pairs(x: Tensor) -> bool:
    """Say whether each pair can be seen as a complex number where it lies in memory."""
    *others, last = x.stride()
    return last == 1 and x.storage_offset() % 2 == 0 and not any(stride % 2 for stride in others)


class _Rotate(torch.autograd.Function):
    """A rotation, whose gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        d_x = torch.empty(gradient.shape, dtype=gradient.dtype, device=gradient.device)
        (first, second), (cos, sin) = gradient.chunk(2, dim=-1), ctx.saved_tensors
        _turn(first, second, cos, sin, d_x[..., 0::2], d_x[..., 1::2], -1)
        return d_x, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    first, second = out.chunk(2, dim=-1)
    _turn(x[..., 0::2], x[..., 1::2], cos, sin, first, second, 1)
    return out


def _turn(a: Tensor, b: Tensor, cos: Tensor, sin: Tensor, out_a: Tensor, out_b: Tensor, sign: int) -> None:
    """Write a cos - sign b sin and b cos + sign a sin."""
    torch.mul(a, cos, out=out_a).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=out_b).addcmul_(a, sin, value=sign)
