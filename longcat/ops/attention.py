"""Causal softmax attention."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from longcat.accelerator import npu_operator
from longcat.ops.documents import find_document_starts, readable
from longcat.ops.registry import SampleInputs, operator

KEPT_LENGTH = 2048
"""Up to this length `BlockAttention` keeps the probabilities for the backward pass; beyond it they are recomputed."""
QUERY_BLOCK = 128
"""Queries that go through `BlockAttention` at once: their scores stay in the cache, and later keys are never touched."""
BLOCK_SCORES = 134_217_728
"""Scores held at once; blocks become smaller where they would be more."""
MOST_HEADS, WIDEST_HEAD, MOST_TOKENS = 256, 768, 1_000_000
"""Limits of npu_fusion_attention; packed sequences count together."""
MOST_DOCUMENTS = 1000
"""Packed sequences that go through it at once; documents are independent, so that more of them go one after the other."""
COMPRESSED_MASK = 2048
LEFT_UP_CAUSAL, RIGHT_DOWN_CAUSAL = 2, 3
"""Its sparse modes with a mask of that size: queries and keys begin, or end, together."""


def _sample_inputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    document_starts = find_document_starts(torch.tensor([[0] * 3 + [1] * 130 + [2] * 17, [0] * 149 + [1]]))
    for apart in (None, document_starts):
        yield draw(2, 3, 150, 32), draw(2, 3, 150, 32), draw(2, 3, 150, 16), 0.3, apart


@operator("attention", _sample_inputs)
def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, document_starts: Tensor | None = None
) -> Tensor:
    """Compute softmax(scale Q K^T) V over the positions up to each one, within its document (arXiv 1706.03762, eq. 1).

    Args:
        query: `[batch, heads, seq, dim]`.
        key: the same shape.
        value: `[batch, heads, seq, value dim]`.
        scale: factor on the scores; dim ** -0.5 when none.
        document_starts: see `longcat.ops.documents`; none where every row is one.

    Returns:
        `[batch, heads, seq, value dim]`.
    """
    scores = (query @ key.mT).float() * _scale(query, scale)
    seen = readable(document_starts, query.shape[2], key.shape[2], query.device).unsqueeze(-3)
    return scores.masked_fill(~seen, -math.inf).softmax(-1).to(value.dtype) @ value


def _scale(query: Tensor, scale: float | None) -> float:
    return float(query.shape[-1] ** -0.5) if scale is None else scale


@causal_attention.implementation("cuda")
def torch_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, document_starts: Tensor | None = None
) -> Tensor:
    """Compute attention by torch's kernels; with documents they need a mask of the whole square."""
    if document_starts is None:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    mask = readable(document_starts, query.shape[2], key.shape[2], query.device)[:, None]
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)


def _npu_unsupported_reason(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, document_starts: Tensor | None = None
) -> str | None:
    batch, heads, seq, dim = query.shape
    if heads > MOST_HEADS:
        return f"{heads} heads are more than {MOST_HEADS}"
    if not value.shape[-1] <= dim <= WIDEST_HEAD:
        return (
            f"heads of {dim}, with values of {value.shape[-1]}: values may not be wider, nor heads than {WIDEST_HEAD}"
        )
    tokens = seq if document_starts is None else batch * seq
    return None if tokens <= MOST_TOKENS else f"{tokens} tokens are more than {MOST_TOKENS}"


@causal_attention.implementation("npu", unsupported_reason=_npu_unsupported_reason)
def _npu_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, document_starts: Tensor | None = None
) -> Tensor:
    """Compute attention by torch_npu's kernel, which skips what lies in other documents.

    Rotated and plain part of a head come concatenated: npu_fusion_attention_v2 takes them apart in bf16 and packed
    sequences only, and wants the rotated key once for every head.
    """
    batch, heads, seq, _ = query.shape
    fused, mask = npu_operator("npu_fusion_attention"), _compressed_mask(query.device)
    factor = _scale(query, scale)
    inputs = [tensor.transpose(1, 2) for tensor in (query, key, value)]  # as the projections laid them
    if document_starts is None:
        out: Tensor = fused(*inputs, heads, "BSND", atten_mask=mask, scale=factor, sparse_mode=LEFT_UP_CAUSAL)[0]
        return out.transpose(1, 2)
    inputs = [tensor.flatten(0, 1) for tensor in inputs]
    first = (document_starts == torch.arange(seq, device=document_starts.device)).flatten().nonzero().flatten().tolist()
    parts = []
    for number in range(0, len(first), MOST_DOCUMENTS):
        begins = [*first[number : number + MOST_DOCUMENTS + 1], batch * seq][: MOST_DOCUMENTS + 1]
        ends = [end - begins[0] for end in begins[1:]]
        part = [tensor[begins[0] : begins[-1]] for tensor in inputs]
        lengths = {"actual_seq_qlen": ends, "actual_seq_kvlen": ends}
        parts.append(
            fused(*part, heads, "TND", atten_mask=mask, scale=factor, sparse_mode=RIGHT_DOWN_CAUSAL, **lengths)[0]
        )
    return torch.cat(parts).unflatten(0, (batch, seq)).transpose(1, 2)


@lru_cache(maxsize=1)
def _compressed_mask(device: torch.device) -> Tensor:
    """Make the causal mask that stands for one of any length."""
    return torch.ones(COMPRESSED_MASK, COMPRESSED_MASK, dtype=torch.bool, device=device).triu(1)


@causal_attention.implementation("cpu")  # torch's kernel there wants value and key of one width, and is slower
@torch.compiler.disable
def block_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, document_starts: Tensor | None = None
) -> Tensor:
    """Compute attention in blocks of queries: on a CPU about four times as fast as torch's flash kernel."""
    batch, heads, seq, _ = query.shape
    inputs = (tensor.flatten(0, 1) for tensor in (query, key, value))
    out = BlockAttention.apply(*inputs, _scale(query, scale), document_starts)
    return out.view(batch, heads, seq, -1)


class BlockAttention(torch.autograd.Function):
    """Causal attention over `[n, seq, dim]`, a block of queries at a time against the keys up to its end.

    With documents, from the earliest start of a document in it; row i of `document_starts` holds for n / batch heads.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, document_starts: Tensor | None = None
    ) -> Tensor:
        """Return `[n, seq, value dim]`."""
        keeps = query.shape[1] <= KEPT_LENGTH and any(ctx.needs_input_grad)
        blocks = _blocks(query, document_starts) if keeps else []
        kept = [_probabilities(query, key, block, scale, document_starts) for block in blocks]
        out: Tensor = _attend(query, key, value, scale, document_starts, kept)
        ctx.save_for_backward(query, key, value, out, *kept)
        ctx.scale, ctx.document_starts = scale, document_starts
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        query, key, value, out, *kept = ctx.saved_tensors
        (gradient,) = gradients
        # sum_k p_k dL/dp_k of each query (arXiv 2205.14135, appendix B.4)
        delta = (gradient.float() * out).sum(-1, keepdim=True).to(query.dtype)
        # many small terms add up over a long sequence: in fp32 there
        dtype = query.dtype if kept else torch.float32
        d_query, d_key = torch.empty_like(query), key.new_zeros(key.shape, dtype=dtype)
        d_value = value.new_zeros(value.shape, dtype=dtype)
        for number, block in enumerate(_blocks(query, ctx.document_starts)):
            first, start, end = block
            probabilities = kept[number] if kept else _probabilities(query, key, block, ctx.scale, ctx.document_starts)
            d_out = gradient[:, start:end]
            _add_product(d_value[:, first:end], probabilities.mT, d_out)
            d_probabilities = torch.bmm(d_out, value[:, first:end].mT)
            d_scores = d_probabilities.sub_(delta[:, start:end]).mul_(probabilities)  # but for the scale
            d_query[:, start:end] = torch.bmm(d_scores, key[:, first:end])
            _add_product(d_key[:, first:end], d_scores.mT, query[:, start:end], ctx.scale)
        return d_query.mul_(ctx.scale), d_key.to(key.dtype), d_value.to(value.dtype), None, None


@torch.library.custom_op("longcat::block_attention", mutates_args=())
def _attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, document_starts: Tensor | None, known: list[Tensor]
) -> Tensor:
    """Compute attention as one operator, for what looks at operators, from the probabilities where they are `known`."""
    out = query.new_empty(*query.shape[:2], value.shape[-1])
    for number, block in enumerate(_blocks(query, document_starts)):
        first, start, end = block
        probabilities = known[number] if known else _probabilities(query, key, block, scale, document_starts)
        out[:, start:end] = torch.bmm(probabilities, value[:, first:end])
    return out


@register_flop_formula(torch.ops.longcat.block_attention)
def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], _scale: float, _starts: Any, known: Any, **_: Any
) -> int:
    """Count the products of the blocks, as without documents."""
    count, seq, dim = query
    width = value[-1] + (0 if known else dim)
    return sum(2 * count * (end - start) * (end - first) * width for first, start, end in _whole_blocks(count, seq))


def _add_product(total: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> None:
    if total.dtype == a.dtype:
        total.baddbmm_(a, b, alpha=scale)
    else:
        total.add_(torch.bmm(a, b), alpha=scale)


def _probabilities(
    query: Tensor, key: Tensor, block: tuple[int, int, int], scale: float, document_starts: Tensor | None
) -> Tensor:
    """Compute softmax(scale Q K^T) of queries `start` to `end` over the keys from `first` on and before `end`."""
    first, start, end = block
    mask = query.new_full((end - start, end - start), -math.inf).triu_(1)
    scores = torch.bmm(query[:, start:end], key[:, first:end].mT).mul_(scale)
    scores[:, :, start - first :].add_(mask)
    if document_starts is not None:
        latest = int(document_starts[:, end - 1].max())  # keys from there on belong to the documents of all queries
        foreign = torch.arange(first, latest) < document_starts[:, start:end, None]  # [batch, queries, keys]
        scores[..., : latest - first].unflatten(0, (len(document_starts), -1)).masked_fill_(foreign[:, None], -math.inf)
    return scores.softmax(-1)


def _blocks(query: Tensor, document_starts: Tensor | None) -> list[tuple[int, int, int]]:
    """List first key, first query and end of each block."""
    blocks = _whole_blocks(*query.shape[:2])
    if document_starts is None:
        return blocks
    first = document_starts.amin(0).tolist()  # the starts of a row never fall
    return [(first[start], start, end) for _, start, end in blocks]


def _whole_blocks(count: int, seq: int) -> list[tuple[int, int, int]]:
    size = max(1, min(QUERY_BLOCK, BLOCK_SCORES // (count * seq)))
    return [(0, start, min(start + size, seq)) for start in range(0, seq, size)]
