"""Rotary position embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.reference import gradients, reference


@reference("npu_rotary_mul")
def rotary_mul(
    x: Tensor, cosine: Tensor, sine: Tensor, rotary_mode: str = "half", rotate: Tensor | None = None
) -> Tensor:
    """Compute `x * cosine + rotated(x) * sine`, where pairs are half the size apart (half) or neighbours (interleave).

    Args:
        x: `[batch, tokens, heads, size]` in any order that cosine and sine broadcast to.
        cosine: with sizes of 1 where it is shared.
        sine: likewise.
        rotary_mode: half or interleave.
        rotate: a matrix `[size, size]` that turns x instead.
    """
    if rotate is not None:
        turned = x.float() @ rotate.float()
    elif rotary_mode == "half":
        first, second = x.float().chunk(2, -1)
        turned = torch.cat((-second, first), -1)
    elif rotary_mode == "interleave":
        turned = torch.stack((-x[..., 1::2].float(), x[..., ::2].float()), -1).flatten(-2)
    else:
        raise NotImplementedError(f"npu_rotary_mul: rotary_mode {rotary_mode!r} is not emulated")
    return (x.float() * cosine.float() + turned * sine.float()).to(x.dtype)


@reference("npu_rotary_mul_backward")
def rotary_mul_backward(
    d_y: Tensor, x: Tensor, cosine: Tensor, sine: Tensor, rotary_mode: str = "half"
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, cosine and sine."""
    return tuple(gradients(lambda *inputs: rotary_mul(*inputs, rotary_mode), [x, cosine, sine], d_y))


@reference("npu_apply_rotary_pos_emb")
def apply_rotary_pos_emb(
    query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor, layout: str = "BSND", rotary_mode: str = "half"
) -> tuple[Tensor, Tensor]:
    """Rotate query and key in place."""
    for x in (query, key):
        x.copy_(rotary_mul(x, cosine, sine, rotary_mode))
    return query, key


@reference("npu_interleave_rope")
def interleave_rope(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Reorder neighbouring pairs into halves and rotate, as DeepSeek does; `[batch, heads, tokens, size]`."""
    halves = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    return rotary_mul(halves, cosine, sine)
