"""Rotary position embedding over interleaved pairs, as LongCat and DeepSeek lay them out."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_angles(positions: Tensor, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position times frequency, `theta ** (-2i / dim)` for pair i (RoFormer, arXiv 2104.09864, eq. 15).

    Args:
        positions: `[seq]`, integer.
        dim: rotated dimensions of a head, even.
        theta: base of the frequencies.

    Returns:
        Two fp32 tensors `[seq, dim / 2]`.
    """
    pairs = torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device)
    angles = torch.outer(positions.float(), 1.0 / theta ** (pairs / dim))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i+1) of the last axis; the result holds all first halves, then all second halves.

    Query and key are permuted alike, so dot products are those of the interleaved layout.

    Args:
        x: `[..., seq, heads, dim]`.
        cos: `[seq, dim / 2]`.
        sin: the same shape.
    """
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
