"""Causal softmax attention."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from longcat.accelerator import npu_operator
from longcat.costs.memory import KEPT_LENGTH
from longcat.ops.chunks import size_kind
from longcat.ops.documents import find_document_starts, has_numbers, pack, readable
from longcat.ops.registry import SampleInputs, operator

QUERY_BLOCK = 128
"""Queries that go through `BlockAttention` at once: their scores stay in the cache, and later keys are never touched. Sized
for an accelerator, whose kernels keep no probabilities, it takes as many as `BLOCK_SCORES` allows."""
BLOCK_SCORES = 134_217_728
"""Scores held at once; blocks become smaller where they would be more."""
MOST_HEADS, WIDEST_HEAD, MOST_TOKENS = 256, 768, 1_000_000
"""Limits of npu_fusion_attention; packed sequences count together."""
MOST_DOCUMENTS = 1000
"""Packed sequences that go through it at once; documents are independent, so that more of them go one after the other."""
COMPRESSED_MASK = 2048
RIGHT_DOWN_CAUSAL = 3
"""Its sparse mode with a mask of that size where queries and keys end together."""


def _sample_inputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    document_starts = find_document_starts(torch.tensor([[0] * 3 + [1] * 130 + [2] * 17, [0] * 149 + [1]]))
    for queries in (150, 70):  # 70: the first document of a row begins before its queries, or with them
        for apart in (None, document_starts[:, 150 - queries :]):
            yield draw(2, 3, queries, 32), draw(2, 3, 150, 32), draw(2, 3, 150, 16), 0.3, apart


@operator("attention", _sample_inputs)
def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, document_starts: Tensor | None = None
) -> Tensor:
    """Compute softmax(scale Q K^T) V over the positions up to each one, within its document (arXiv 1706.03762, eq. 1).

    The queries are the last positions of the keys: with fewer queries than keys, each one reads what it would read if all
    were here.

    Args:
        query: `[batch, heads, queries, dim]`.
        key: `[batch, heads, keys, dim]`, no fewer than queries.
        value: `[batch, heads, keys, value dim]`.
        scale: factor on the scores; dim ** -0.5 when none.
        document_starts: of the queries `[batch, queries]`, see `longcat.ops.documents`; none where every row is one.

    Returns:
        `[batch, heads, queries, value dim]`.
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
    """Compute attention by torch's kernels; with documents, or fewer queries than keys, they need a mask of all scores."""
    if document_starts is None and query.shape[2] == key.shape[2]:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    mask = readable(document_starts, query.shape[2], key.shape[2], query.device).unsqueeze(-3)
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)


def _npu_unsupported_reason(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, document_starts: Tensor | None = None
) -> str | None:
    batch, heads, _, dim = query.shape
    if heads > MOST_HEADS:
        return f"{heads} heads are more than {MOST_HEADS}"
    if not value.shape[-1] <= dim <= WIDEST_HEAD:
        return (
            f"heads of {dim}, with values of {value.shape[-1]}: values may not be wider, nor heads than {WIDEST_HEAD}"
        )
    tokens = key.shape[2] * (1 if document_starts is None else batch)
    return None if tokens <= MOST_TOKENS else f"{tokens} tokens are more than {MOST_TOKENS}"


@causal_attention.implementation("npu", unsupported_reason=_npu_unsupported_reason)
@torch.compiler.disable  # torchair has no converter for its gradient, nor for packed sequences
def _npu_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, document_starts: Tensor | None = None
) -> Tensor:
    """Compute attention by torch_npu's kernel, which skips what lies in other documents.

    Rotated and plain part of a head come concatenated: npu_fusion_attention_v2 takes them apart in bf16 and packed
    sequences only, and wants the rotated key once for every head.
    """
    batch, heads, queries, _ = query.shape
    fused, mask = npu_operator("npu_fusion_attention"), _compressed_mask(query.device)
    options = {"atten_mask": mask, "scale": _scale(query, scale), "sparse_mode": RIGHT_DOWN_CAUSAL}
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))  # as the projections laid them
    if document_starts is None:
        out: Tensor = fused(query, key, value, heads, "BSND", **options)[0]
        return out.transpose(1, 2)
    packed = pack(document_starts, key.shape[1])
    query, key, value = query.flatten(0, 1), packed.keys(key), packed.keys(value)
    parts = []
    for number in range(0, len(packed.query_ends), MOST_DOCUMENTS):
        ends = [of[number : number + MOST_DOCUMENTS] for of in (packed.query_ends, packed.key_ends)]
        begins = [of[number - 1] if number else 0 for of in (packed.query_ends, packed.key_ends)]
        spans = [slice(begin, of[-1]) for begin, of in zip(begins, ends, strict=True)]
        part = query[spans[0]], key[spans[1]], value[spans[1]]
        lengths = [[end - begin for end in of] for begin, of in zip(begins, ends, strict=True)]
        named = dict(zip(("actual_seq_qlen", "actual_seq_kvlen"), lengths, strict=True))
        parts.append(fused(*part, heads, "TND", **options, **named)[0])
    return torch.cat(parts).unflatten(0, (batch, queries)).transpose(1, 2)


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
    batch, heads, queries, _ = query.shape
    inputs = (tensor.flatten(0, 1) for tensor in (query, key, value))
    out = BlockAttention.apply(*inputs, _scale(query, scale), document_starts)
    return out.view(batch, heads, queries, -1)


class _Block(NamedTuple):
    """Queries that go through at once, and the keys that they read."""

    start: int
    """First query."""
    end: int
    """End of the queries."""
    first_key: int
    """The earliest start of their documents."""
    own_key: int
    """The first query's own position; the keys end as many after it as the queries after the first one."""
    common_key: int
    """Keys from there on belong to the documents of all of the queries."""

    @property
    def queries(self) -> slice:
        return slice(self.start, self.end)

    @property
    def keys(self) -> slice:
        return slice(self.first_key, self.own_key + self.end - self.start)


class BlockAttention(torch.autograd.Function):
    """Causal attention of `[n, queries, dim]` to `[n, keys, dim]`, a block of queries at a time against the keys up to its end.

    With documents, from the earliest start of a document in it; row i of `document_starts` holds for n / batch heads.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, document_starts: Tensor | None = None
    ) -> Tensor:
        """Return `[n, queries, value dim]`."""
        few = size_kind(query) == "cpu" and query.shape[1] * key.shape[1] <= KEPT_LENGTH**2
        keeps = few and any(ctx.needs_input_grad)
        blocks = _blocks(query, key, document_starts) if keeps else []
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
        for number, block in enumerate(_blocks(query, key, ctx.document_starts)):
            probabilities = kept[number] if kept else _probabilities(query, key, block, ctx.scale, ctx.document_starts)
            d_out = gradient[:, block.queries]
            _add_product(d_value[:, block.keys], probabilities.mT, d_out)
            d_probabilities = torch.bmm(d_out, value[:, block.keys].mT)
            d_scores = d_probabilities.sub_(delta[:, block.queries]).mul_(probabilities)  # but for the scale
            d_query[:, block.queries] = torch.bmm(d_scores, key[:, block.keys])
            _add_product(d_key[:, block.keys], d_scores.mT, query[:, block.queries], ctx.scale)
        return d_query.mul_(ctx.scale), d_key.to(key.dtype), d_value.to(value.dtype), None, None


@torch.library.custom_op("longcat::block_attention", mutates_args=())
def _attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, document_starts: Tensor | None, known: list[Tensor]
) -> Tensor:
    """Compute attention as one operator, for what looks at operators, from the probabilities where they are `known`."""
    out = query.new_empty(*query.shape[:2], value.shape[-1])
    for number, block in enumerate(_blocks(query, key, document_starts)):
        probabilities = known[number] if known else _probabilities(query, key, block, scale, document_starts)
        out[:, block.queries] = torch.bmm(probabilities, value[:, block.keys])
    return out


@_attend.register_fake
def _(query: Tensor, _key: Tensor, value: Tensor, *_: Any) -> Tensor:
    return query.new_empty(*query.shape[:2], value.shape[-1])


@register_flop_formula(torch.ops.longcat.block_attention)
def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], _scale: float, _starts: Any, known: Any, **_: Any
) -> int:
    """Count the products of the blocks, as without documents."""
    count, queries, dim = query
    keys, width = key[1], value[-1] + (0 if known else dim)
    spans = _spans("cpu", count, queries, keys)
    return sum(2 * count * (end - start) * (keys - queries + end) * width for start, end in spans)


def _add_product(total: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> None:
    if total.dtype == a.dtype:
        total.baddbmm_(a, b, alpha=scale)
    else:
        total.add_(torch.bmm(a, b), alpha=scale)


def _probabilities(query: Tensor, key: Tensor, block: _Block, scale: float, document_starts: Tensor | None) -> Tensor:
    """Compute softmax(scale Q K^T) of a block's queries over its keys."""
    size = block.end - block.start
    mask = query.new_full((size, size), -math.inf).triu_(1)
    scores = torch.bmm(query[:, block.queries], key[:, block.keys].mT).mul_(scale)
    scores[:, :, block.own_key - block.first_key :].add_(mask)
    if document_starts is not None:
        before = torch.arange(block.first_key, block.common_key, device=query.device)
        foreign = before < document_starts[:, block.queries, None]  # [batch, queries, keys]
        scores[..., : len(before)].unflatten(0, (len(document_starts), -1)).masked_fill_(foreign[:, None], -math.inf)
    return scores.softmax(-1)


def _blocks(query: Tensor, key: Tensor, document_starts: Tensor | None) -> list[_Block]:
    """Cut the queries into blocks; where the host cannot know the documents, each block reads from the row's start on."""
    (count, queries, _), keys = query.shape, key.shape[1]
    earlier = keys - queries
    spans = _spans(size_kind(query), count, queries, keys)
    if document_starts is None or not has_numbers(document_starts):
        return [_Block(start, end, 0, earlier + start, earlier + end - 1) for start, end in spans]
    first, last = document_starts.amin(0).tolist(), document_starts.amax(0).tolist()  # the starts of a row never fall
    return [_Block(start, end, first[start], earlier + start, last[end - 1]) for start, end in spans]


def _spans(kind: str, count: int, queries: int, keys: int) -> list[tuple[int, int]]:
    size = max(1, BLOCK_SCORES // (count * keys))
    size = min(size, QUERY_BLOCK) if kind == "cpu" else size
    return [(start, min(start + size, queries)) for start in range(0, queries, size)]
