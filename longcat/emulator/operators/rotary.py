"""Rotary position embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.reference import check, check_types, reference


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

    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_rotary_mul", reason)

    need(
        x.dim() in (3, 4) and cosine.dim() == sine.dim() == x.dim(),
        f"takes tensors of 3 or 4 dimensions, all alike, got {x.dim()}, {cosine.dim()} and {sine.dim()}",
    )
    need(
        rotary_mode in ("half", "interleave"),
        f"The rotary_mode of npu_rotary_mul should be half or interleave, but got {rotary_mode}",
    )
    need(x.shape[-1] % 2 == 0 and x.shape[-1] < 896, f"the last size must be even and below 896, got {x.shape[-1]}")
    for name, table in (("r1", cosine), ("r2", sine)):
        need(_broadcasts(table, x, rotary_mode), f"{name} {list(table.shape)} does not go with input {list(x.shape)}")
    if rotate is not None:
        return (x.float() * cosine.float() + (x.float() @ rotate.float()) * sine.float()).to(x.dtype)
    return _rotated(x, cosine, sine, rotary_mode).to(x.dtype)


_SHARED = {"half": ((0, 1), (0, 2), (1, 2), (1,), (2,), ()), "interleave": ((0, 1), (0, 2), (1, 2))}
"""Dimensions of four that a table of cosines may share: heads, or batch and heads, which may lie in any order."""


def _broadcasts(table: Tensor, x: Tensor, mode: str) -> bool:
    if table.shape[-1] != x.shape[-1]:
        return False
    if x.dim() == 3:
        return all(own in (1, size) for own, size in zip(table.shape, x.shape, strict=True))
    return any(all(table.shape[i] == (1 if i in shared else x.shape[i]) for i in range(3)) for shared in _SHARED[mode])


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
    """Rotate query and key in place: `[batch, tokens, heads, 64 or 128]`, or `[tokens, heads, 64 or 128]` in TND."""

    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_apply_rotary_pos_emb", reason)

    check_types("npu_apply_rotary_pos_emb", (query.dtype,), key=key, cos=cosine, sin=sine)
    need(layout in ("BSND", "TND"), f"layout must be BSND or TND, got {layout}")
    need(rotary_mode == "half", f"rotary_mode must be half, got {rotary_mode}")
    for name, tensor in (("query", query), ("key", key), ("cos", cosine), ("sin", sine)):
        need(tensor.dim() == len(layout), f"{name} must have {len(layout)} dimensions in {layout}, got {tensor.dim()}")
        need(tensor.shape[-1] in (64, 128), f"the last size of {name} must be 64 or 128, got {tensor.shape[-1]}")
        need(
            tensor.shape[:-2] == query.shape[:-2],
            f"{name} {list(tensor.shape)} must begin as query {list(query.shape)}",
        )
    need(query.shape[-1] == key.shape[-1], "query and key must have one last size")
    need(cosine.shape == sine.shape and cosine.shape[-2] == 1, "cos and sin must be alike, for one head")
    for x in (query, key):
        x.copy_(rotate_halves(x, cosine, sine))
    return query, key


@reference("npu_interleave_rope")
def interleave_rope(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Reorder neighbouring pairs into halves and rotate, as DeepSeek does; `[batch, heads, tokens, 64]`."""

    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_interleave_rope", reason)

    check_types("npu_interleave_rope", (x.dtype,), cos=cosine, sin=sine)
    for name, tensor in (("x", x), ("cos", cosine), ("sin", sine)):
        need(
            tensor.dim() == 4 and tensor.shape[-1] == 64,
            f"{name} must be [batch, heads, tokens, 64], got {list(tensor.shape)}",
        )
    need(cosine.shape[1] == sine.shape[1] == 1, "cos and sin must be for one head")
    need(cosine.shape[2] in (1, x.shape[2]), f"cos must be of 1 or {x.shape[2]} tokens, got {cosine.shape[2]}")
    halves = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    return rotate_halves(halves, cosine, sine).to(x.dtype)


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
