"""Rotary position embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.reference import check, reference


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
    check(
        x.dim() in (3, 4) and cosine.dim() == sine.dim() == x.dim(),
        "npu_rotary_mul",
        f"takes tensors of 3 or 4 dimensions, all alike, got {x.dim()}, {cosine.dim()} and {sine.dim()}",
    )
    check(
        rotary_mode in ("half", "interleave"),
        "npu_rotary_mul",
        f"The rotary_mode of npu_rotary_mul should be half or interleave, but got {rotary_mode}",
    )
    if rotate is not None:
        return (x.float() * cosine.float() + (x.float() @ rotate.float()) * sine.float()).to(x.dtype)
    return _rotated(x, cosine, sine, rotary_mode).to(x.dtype)


def rotate_halves(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate pairs of the first and the second half of the last dimension, in float32."""
    return _rotated(x, cosine, sine, "half")


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor, mode: str) -> Tensor:
    x = x.float()
    return (x * cosine.float()).add_(_turned(x, mode) * sine.float())


def _turned(x: Tensor, mode: str) -> Tensor:
    """Turn pairs by a right angle; turned twice they are negative."""
    if mode == "half":
        first, second = x.chunk(2, -1)
        return torch.cat((-second, first), -1)
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


@reference("npu_rotary_mul_backward")
def rotary_mul_backward(
    d_y: Tensor, x: Tensor, cosine: Tensor, sine: Tensor, rotary_mode: str = "half"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, cosine and sine."""
    gradient, whole = d_y.float(), x.float()
    d_x = (gradient * cosine.float()).sub_(_turned(gradient * sine.float(), rotary_mode))
    d_cosine = (gradient * whole).sum_to_size(cosine.shape)
    d_sine = (gradient * _turned(whole, rotary_mode)).sum_to_size(sine.shape)
    return d_x.sum_to_size(x.shape).to(x.dtype), d_cosine.to(cosine.dtype), d_sine.to(sine.dtype)


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


@reference("npu_mrope")
def mrope(
    positions: Tensor,
    query: Tensor,
    key: Tensor,
    cos_sin_cache: Tensor,
    head_size: int,
    *,
    mrope_section: list[int] | None = None,
    rotary_mode: str | None = "half",
    cache_mode: str | None = "default",
) -> tuple[Tensor, Tensor]:
    """Rotate the first part of every head by positions of one kind, or of several that share out the frequencies.

    Args:
        positions: `[tokens]`, or `[kinds, tokens]` with sections.
        query: `[tokens, heads * head_size]`.
        key: likewise.
        cos_sin_cache: cosines and then sines of each position.
        head_size: of query and key.
        mrope_section: how many frequencies each kind of positions has; None or zeros for one kind.
        rotary_mode: half or interleave: where the two numbers lie that are rotated together.
        cache_mode: default: sections one behind the other; interleave: every third frequency.
    """

    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_mrope", reason)

    need(cache_mode in ("default", "interleave"), f"cache_mode only support default or interleave, got {cache_mode!r}")
    modes = ("half", "interleave", "interleaved")
    need(rotary_mode in modes, f"rotary_mode must be half or interleave, got {rotary_mode!r}")
    need(query.dtype == key.dtype == cos_sin_cache.dtype, "query, key and cos_sin_cache must have one dtype")
    need(cos_sin_cache.shape[-1] <= head_size, "the rotated part must not be larger than a head")
    cosine, sine = cos_sin_cache[positions.long()].float().chunk(2, -1)
    if mrope_section and any(mrope_section):
        need(positions.dim() == 2 and len(positions) == len(mrope_section), "positions need a row for each section")
        need(sum(mrope_section) == cosine.shape[-1], f"sections must sum to {cosine.shape[-1]}")
        need(len(mrope_section) == 3 or cache_mode == "default", "four sections take cache_mode default only")
        cosine, sine = (_shared_out(t, mrope_section, cache_mode == "interleave") for t in (cosine, sine))
    else:
        need(positions.dim() == 1, "positions must be [tokens] without sections")

    def turned(x: Tensor) -> Tensor:
        heads = x.float().unflatten(-1, (-1, head_size))
        part, rest = heads.tensor_split([cos_sin_cache.shape[-1]], -1)
        a, b = part.chunk(2, -1) if rotary_mode == "half" else (part[..., ::2], part[..., 1::2])
        c, s = cosine[:, None], sine[:, None]
        both = (a * c - b * s, b * c + a * s)
        done = torch.cat(both, -1) if rotary_mode == "half" else torch.stack(both, -1).flatten(-2)
        return torch.cat((done, rest), -1).flatten(-2).to(x.dtype)

    return turned(query), turned(key)


def _shared_out(table: Tensor, sections: list[int], interleaved: bool) -> Tensor:
    """Take of each kind's table `[kinds, tokens, frequencies]` the frequencies that are its own."""
    if not interleaved:
        return torch.cat([part[kind] for kind, part in enumerate(table.split(sections, -1))], -1)
    own = table[0].clone()
    for kind in (1, 2):
        own[..., kind : sections[1] * 3 : 3] = table[kind, ..., kind : sections[1] * 3 : 3]
    return own
