"""Causal softmax attention."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

KEPT_LENGTH = 2048
"""Up to this length `BlockAttention` keeps the probabilities for the backward pass; beyond it they are worked out again."""
QUERY_BLOCK = 128
"""Queries that go through `BlockAttention` at once: their scores stay in the cache, and later keys are never touched."""
BLOCK_SCORES = 134_217_728
"""Scores held at once; blocks become smaller where they would be more."""


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale Q K^T) V over the positions up to each one (arXiv 1706.03762, eq. 1).

    Args:
        query: `[batch, heads, seq, dim]`.
        key: the same shape.
        value: `[batch, heads, seq, value dim]`.
        scale: factor on the scores; dim ** -0.5 when none.

    Returns:
        `[batch, heads, seq, value dim]`.
    """
    if query.device.type == "cpu":  # torch's kernel there wants value and key of one width, and is slower
        return block_attention(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)


@torch.compiler.disable
def block_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """`causal_attention` in blocks of queries: on a CPU about four times as fast as torch's flash kernel."""
    batch, heads, seq, _ = query.shape
    out = BlockAttention.apply(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), scale)
    return out.view(batch, heads, seq, -1)


class BlockAttention(torch.autograd.Function):
    """Causal attention over `[n, seq, dim]`, a block of queries at a time against the keys up to its end."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """`[n, seq, value dim]`."""
        out = query.new_empty(*query.shape[:2], value.shape[-1])
        keeps = query.shape[1] <= KEPT_LENGTH and any(ctx.needs_input_grad)
        kept = []
        for start, end in _blocks(query):
            probabilities = _probabilities(query, key, start, end, scale)
            out[:, start:end] = torch.bmm(probabilities, value[:, :end])
            if keeps:
                kept.append(probabilities)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, *kept = ctx.saved_tensors
        (gradient,) = gradients
        # many small terms add up over a long sequence: in fp32 there
        dtype = query.dtype if kept else torch.float32
        d_query, d_key = torch.empty_like(query), key.new_zeros(key.shape, dtype=dtype)
        d_value = value.new_zeros(value.shape, dtype=dtype)
        for number, (start, end) in enumerate(_blocks(query)):
            probabilities = kept[number] if kept else _probabilities(query, key, start, end, ctx.scale)
            d_out = gradient[:, start:end]
            _add_product(d_value[:, :end], probabilities.mT, d_out)
            d_probabilities = torch.bmm(d_out, value[:, :end].mT)
            d_scores = torch._softmax_backward_data(d_probabilities, probabilities, -1, query.dtype).mul_(ctx.scale)
            d_query[:, start:end] = torch.bmm(d_scores, key[:, :end])
            _add_product(d_key[:, :end], d_scores.mT, query[:, start:end])
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype), None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if total.dtype == a.dtype:
        total.baddbmm_(a, b)
    else:
        total += torch.bmm(a, b)


def _probabilities(query: Tensor, key: Tensor, start: int, end: int, scale: float) -> Tensor:
    """softmax(scale Q K^T) of queries `start` to `end` over the keys before `end`."""
    mask = query.new_full((end - start, end - start), -math.inf).triu_(1)
    scores = torch.bmm(query[:, start:end], key[:, :end].mT).mul_(scale)
    scores[:, :, start:].add_(mask)
    return scores.softmax(-1)


def _blocks(query: Tensor) -> list[tuple[int, int]]:
    count, seq, _ = query.shape
    size = max(1, min(QUERY_BLOCK, BLOCK_SCORES // (count * seq)))
    return [(start, min(start + size, seq)) for start in range(0, seq, size)]
