"""LongCat Sparse Attention (arXiv 2608.01662): scores of the indexer, the keys chosen by them, and attention to these.

Everything goes in chunks of queries, so that memory does not grow with the square of the sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import register_flop_formula

from longcat.accelerator import npu_operator
from longcat.config import SparseAttentionConfig
from longcat.ops.documents import find_document_starts, readable
from longcat.ops.registry import SampleInputs, operator

CHUNK_ELEMENTS = 16_777_216
"""Numbers that the largest intermediate result of a chunk of queries may have."""
GATHERED_ELEMENTS = 2_097_152
"""Numbers of keys gathered at once: they are used several times, and should still be in the cache."""
INDEX_DIM, MOST_INDEX_HEADS, MOST_CHOSEN = 128, 64, 2048
"""Limits of npu_lightning_indexer."""
LATENT_DIM, ROTARY_DIM, HEADS = 512, 64, (1, 2, 4, 8, 16, 32, 64, 128)
"""Shapes of npu_sparse_flash_attention."""
ABSORBED = 2
"""Its mode for heads that share one latent, which is key and value."""


def index_scores(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """Compute I[t, s] = sum over heads of weight[t, h] relu(query[t, h] . key[s]).

    Args:
        query: `[batch, queries, heads, dim]`.
        key: `[batch, keys, dim]`.
        weight: `[batch, queries, heads]`.

    Returns:
        fp32 `[batch, queries, keys]`.
    """
    batch, queries, heads, _ = query.shape
    products = (query.flatten(1, 2) @ key.mT).relu().view(batch * queries, heads, -1)
    return (weight.reshape(batch * queries, 1, heads).to(products.dtype) @ products).view(batch, queries, -1).float()


def _selection_sample_inputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    """Draw scores that no type rounds, so that there is one right choice."""
    sparse = SparseAttentionConfig(
        index_n_heads=2, index_head_dim=INDEX_DIM, index_topk=24, index_init_tokens=2, index_local_tokens=6
    )
    length = 96
    key = torch.zeros(2, length, INDEX_DIM, dtype=draw.dtype)
    key[..., 0] = torch.stack([torch.randperm(length, generator=draw.generator) for _ in range(2)])
    query = torch.zeros(2, length, 2, INDEX_DIM, dtype=draw.dtype)
    query[..., 0, 0] = 1.0
    weight = torch.ones(2, length, 2, dtype=draw.dtype)
    yield query, key, weight, sparse
    document_starts = find_document_starts(torch.tensor([[0] * 3 + [1] * 70 + [2] * 23, [0] * 95 + [1]]))
    yield query, key, weight, sparse, False, document_starts
    yield query[:, 90:], key, weight[:, 90:], sparse


_NEARER = 1e-30
"""Score of a key for each position that it is farther away, far below any other score."""


@operator("key_selection", _selection_sample_inputs, lambda keys: keys.sort(-1).values.float())
@torch.compiler.disable
@torch.no_grad()
def select_keys(
    query: Tensor,
    key: Tensor,
    weight: Tensor,
    config: SparseAttentionConfig,
    hierarchical: bool = False,
    document_starts: Tensor | None = None,
) -> Tensor:
    """Choose the keys that each query reads: sink, window and those with the highest scores, `index_topk` together.

    The queries are the last positions of the keys' sequence. Where fewer keys lie before a query, all are chosen. With
    documents, every one has a sink of its own, and no other keys are chosen. Of keys with a score of exactly 0, which are
    many where there are few heads, the nearest are chosen, so that the choice does not depend on the number of keys.

    Args:
        query: `[batch, queries, heads, dim]`.
        key: `[batch, length, dim]`, `length >= index_topk`.
        weight: `[batch, queries, heads]`.
        config: budget, sink and window.
        hierarchical: score only the tokens of the best pages (for inference, without documents).
        document_starts: of the queries, see `longcat.ops.documents`; none where every row is one.

    Returns:
        int64 `[batch, queries, index_topk]` positions, -1 where there is none.
    """
    budget = config.index_topk, config.index_init_tokens, config.index_local_tokens
    if not hierarchical:
        return _select_keys(query, key, weight, *budget, document_starts)
    first, chosen = key.shape[1] - query.shape[1], []
    batch, queries, heads, dim = query.shape
    for start, end in _chunks(queries, batch * config.index_pages * config.index_page_tokens * max(heads, dim)):
        position = torch.arange(first + start, first + end, device=query.device)[:, None]  # [queries, 1]
        candidates, scores = _page_candidates(query[:, start:end], key, weight[:, start:end], position, config)
        begin = None if document_starts is None else document_starts[:, start:end]
        chosen.append(_best(candidates, scores, position, begin, *budget))
    return torch.cat(chosen, dim=1)


@torch.library.custom_op("longcat::select_keys", mutates_args=())
def _select_keys(
    query: Tensor,
    key: Tensor,
    weight: Tensor,
    budget: int,
    init_tokens: int,
    local_tokens: int,
    document_starts: Tensor | None,
) -> Tensor:
    """Choose among all keys as one operator, for what looks at operators."""
    length, first = key.shape[1], key.shape[1] - query.shape[1]
    batch, queries, heads, _ = query.shape
    chosen = []
    for start, end in _chunks(queries, batch * length * heads):
        position = torch.arange(first + start, first + end, device=query.device)[:, None]  # [queries, 1]
        seen = max(first + end, budget)  # no query of the chunk reads later keys
        candidates = torch.arange(seen, device=query.device).expand(batch, end - start, -1)
        scores = index_scores(query[:, start:end], key[:, :seen], weight[:, start:end])
        begin = None if document_starts is None else document_starts[:, start:end]
        chosen.append(_best(candidates, scores, position, begin, budget, init_tokens, local_tokens))
    return torch.cat(chosen, dim=1)


@register_flop_formula(torch.ops.longcat.select_keys)
def _selection_flops(query: Sequence[int], key: Sequence[int], _weight: Any, budget: int, *_: Any, **__: Any) -> int:
    batch, queries, heads, dim = query
    length, first = key[1], key[1] - queries
    chunks = _chunks(queries, batch * length * heads)
    return sum(2 * batch * (end - start) * heads * dim * max(first + end, budget) for start, end in chunks)


def _best(
    candidates: Tensor,
    scores: Tensor,
    position: Tensor,
    document_starts: Tensor | None,
    budget: int,
    init_tokens: int,
    local_tokens: int,
) -> Tensor:
    begin = 0 if document_starts is None else document_starts[..., None]
    always = (candidates < begin + init_tokens) | (candidates > position - local_tokens)
    foreign = (candidates > position) | (candidates < begin)
    scores = torch.where(scores == 0, _NEARER * (candidates - position - 1), scores)
    scores = scores.masked_fill(always, torch.inf).masked_fill(foreign, -torch.inf)
    best, places = scores.topk(budget, dim=-1, sorted=False)
    return candidates.gather(-1, places).masked_fill(best == -torch.inf, -1)


def _selection_unsupported_reason(
    query: Tensor,
    key: Tensor,
    weight: Tensor,
    config: SparseAttentionConfig,
    hierarchical: bool = False,
    document_starts: Tensor | None = None,
) -> str | None:
    heads, dim = query.shape[2:]
    if hierarchical:
        return "keys are chosen by pages"
    if dim != INDEX_DIM or heads > MOST_INDEX_HEADS or config.index_topk > MOST_CHOSEN:
        return (
            f"{heads} heads of {dim} that choose {config.index_topk} keys, not at most {MOST_INDEX_HEADS} of "
            f"{INDEX_DIM} and {MOST_CHOSEN}"
        )
    return _narrow(query)


def _narrow(query: Tensor) -> str | None:
    return None if query.dtype in (torch.bfloat16, torch.float16) else f"queries are {query.dtype}, not 16 bits wide"


@select_keys.implementation("npu", unsupported_reason=_selection_unsupported_reason)
@torch.compiler.disable
@torch.no_grad()
def _npu_select_keys(
    query: Tensor,
    key: Tensor,
    weight: Tensor,
    config: SparseAttentionConfig,
    hierarchical: bool = False,
    document_starts: Tensor | None = None,
) -> Tensor:
    """Choose keys by the lightning indexer, which knows neither sink nor window: they replace the last keys of its list."""
    (batch, queries), length, budget = query.shape[:2], key.shape[1], config.index_topk
    indexer = npu_operator("npu_lightning_indexer")
    position = torch.arange(length - queries, length, device=query.device)[:, None]  # [queries, 1]
    if document_starts is None:
        begin = torch.zeros_like(position)
        best = indexer(query, key[:, :, None], weight, sparse_count=budget)[0][:, :, 0].long()
    else:  # whole rows, documents laid end to end
        begin = document_starts[..., None]
        first = (document_starts == torch.arange(queries, device=document_starts.device)).flatten().nonzero().flatten()
        ends = torch.cat([first[1:], first.new_tensor([batch * queries])]).to(torch.int32)
        packed = [tensor.flatten(0, 1) for tensor in (query, key[:, :, None], weight)]
        lengths = {"actual_seq_lengths_query": ends, "actual_seq_lengths_key": ends}
        best = indexer(*packed, layout_query="TND", layout_key="TND", sparse_count=budget, **lengths)[0]
        best = best.view(batch, queries, budget).long()
        best = torch.where(best < 0, -1, best + begin)

    own = (begin + config.index_init_tokens).clamp(max=position + 1)  # where the sink ends
    window = torch.maximum(own, position - config.index_local_tokens + 1)
    always = (own - begin) + (position + 1 - window)
    other = (best >= own) & (best < window)
    kept = other & (other.cumsum(-1) <= budget - always)
    number = (~kept).cumsum(-1) - 1  # the free places take sink and window, in this order
    near = torch.where(number < own - begin, begin + number, window + number - (own - begin))
    return torch.where(kept, best, torch.where(number < always, near, -1))


def _page_candidates(
    query: Tensor, key: Tensor, weight: Tensor, position: Tensor, config: SparseAttentionConfig
) -> tuple[Tensor, Tensor]:
    """Find the tokens in each query's best pages: positions `[batch, queries, pages * page]` and scores.

    A page scores what its best block scores, a block what the mean of its keys does. How pages are scored is not
    published in detail: this is ours. Pages of the sink, of the window and those that reach past the query come first.
    """
    batch, length, dim = key.shape
    page, block = config.index_page_tokens, config.index_block_tokens
    pages = -(-length // page)
    padded = torch.nn.functional.pad(key, (0, 0, 0, pages * page - length))
    sizes = (length - torch.arange(0, pages * page, block, device=key.device)).clamp(1, block)
    means = padded.view(batch, -1, block, dim).sum(2) / sizes[:, None].to(key.dtype)
    scores = index_scores(query, means, weight).unflatten(-1, (pages, page // block)).amax(-1)
    begin = torch.arange(pages, device=key.device) * page
    near = begin + page > position - config.index_local_tokens
    scores = scores.masked_fill(near | (begin < config.index_init_tokens), torch.inf)
    scores = scores.masked_fill(begin > position, -torch.inf)
    best = scores.topk(min(config.index_pages, pages), dim=-1, sorted=False).indices  # [batch, queries, pages]
    candidates = (best[..., None] * page + torch.arange(page, device=key.device)).flatten(-2)
    return candidates, index_scores_at(query, padded, weight, candidates)


def index_scores_at(query: Tensor, key: Tensor, weight: Tensor, keys: Tensor) -> Tensor:
    """Compute `index_scores` at chosen positions only.

    Args:
        query: `[batch, queries, heads, dim]`.
        key: `[batch, length, dim]`.
        weight: `[batch, queries, heads]`.
        keys: int64 `[batch, queries, chosen]`.

    Returns:
        fp32 `[batch, queries, chosen]`.
    """
    batch, queries, chosen = keys.shape
    rows = _flat_rows(keys, key.shape[1])
    gathered = key.flatten(0, 1).index_select(0, rows.flatten()).view(batch * queries, chosen, -1)
    return index_scores(query.flatten(0, 1)[:, None], gathered, weight.flatten(0, 1)[:, None]).view(keys.shape)


@torch.compiler.disable
def sparse_index_loss(query: Tensor, key: Tensor, weight: Tensor, keys: Tensor, attended: Tensor) -> Tensor:
    """Sum KL(p || softmax(I)) on the chosen keys over queries, the indexer's loss.

    Args:
        query: `[batch, queries, heads, dim]`.
        key: `[batch, length, dim]`.
        weight: `[batch, queries, heads]`.
        keys: `[batch, queries, chosen]` from `select_keys`.
        attended: p, fp32 of the same shape: the mean over heads of what attention gave to each key.

    Returns:
        fp32 scalar, in nats.
    """
    total = query.new_zeros((), dtype=torch.float32)
    for start, end in _chunks(keys.shape[1], keys.shape[0] * keys.shape[2] * query.shape[-1]):
        part = query[:, start:end], key, weight[:, start:end], keys[:, start:end], attended[:, start:end]
        total = total + checkpoint(_divergence_at, *part, use_reentrant=False)
    return total


def _divergence_at(query: Tensor, key: Tensor, weight: Tensor, keys: Tensor, attended: Tensor) -> Tensor:
    return _divergence(attended, index_scores_at(query, key, weight, keys), keys >= 0)


@torch.compiler.disable
def dense_index_loss(
    index_query: Tensor,
    index_key: Tensor,
    weight: Tensor,
    query: Tensor,
    key: Tensor,
    scale: float,
    document_starts: Tensor | None = None,
    padding: Tensor | None = None,
) -> Tensor:
    """Sum KL(p || softmax(I)) on all keys up to each query, with p from attention's query and key, without gradient.

    Args:
        index_query: `[batch, seq, index heads, dim]`.
        index_key: `[batch, seq, dim]`.
        weight: `[batch, seq, index heads]`.
        query: `[batch, heads, seq, head dim]`.
        key: the same shape.
        scale: of attention's scores.
        document_starts: see `longcat.ops.documents`; none where every row is one.
        padding: bool `[batch, seq]`, true for queries that are left out.
    """
    query, key = query.detach(), key.detach()
    total = query.new_zeros((), dtype=torch.float32)
    batch, heads, seq, _ = query.shape
    for start, end in _chunks(seq, batch * max(heads, index_query.shape[2]) * seq):
        part = (
            index_query[:, start:end],
            index_key[:, :end],
            weight[:, start:end],
            query[:, :, start:end],
            key[:, :, :end],
            scale,
            None if document_starts is None else document_starts[:, start:end],
            None if padding is None else padding[:, start:end],
        )
        total = total + checkpoint(_dense_divergence, *part, use_reentrant=False)
    return total


def _dense_divergence(
    index_query: Tensor,
    index_key: Tensor,
    weight: Tensor,
    query: Tensor,
    key: Tensor,
    scale: float,
    document_starts: Tensor | None,
    padding: Tensor | None,
) -> Tensor:
    seen = readable(document_starts, query.shape[-2], key.shape[-2], query.device)
    with torch.no_grad():
        scores = (query @ key.mT).float() * scale
        attended = scores.masked_fill(~seen.unsqueeze(-3), -torch.inf).softmax(-1).mean(1)
        if padding is not None:
            attended = attended.masked_fill(padding[..., None], 0.0)
    return _divergence(attended, index_scores(index_query, index_key, weight), seen.expand_as(attended))


def _divergence(attended: Tensor, scores: Tensor, seen: Tensor) -> Tensor:
    log_q = scores.masked_fill(~seen, -torch.inf).log_softmax(-1).masked_fill(~seen, 0.0)
    return torch.xlogy(attended, attended).sum() - (attended * log_q).sum()


def _attention_sample_inputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    keys = torch.stack([torch.randperm(40, generator=draw.generator)[:12] for _ in range(2 * 40)]).view(2, 40, 12)
    keys = keys.where(keys <= torch.arange(40)[:, None], -1)
    keys[..., 3] = torch.arange(40)  # a query always reads itself
    keys[..., :3].masked_fill_(keys[..., :3] == keys[..., 3:4], -1)
    keys[..., 4:].masked_fill_(keys[..., 4:] == keys[..., 3:4], -1)
    dim = LATENT_DIM + ROTARY_DIM
    yield draw(2, 40, 4, dim), draw(2, 40, dim), keys, LATENT_DIM, 0.1


@operator("sparse_attention", _attention_sample_inputs)
@torch.compiler.disable
def sparse_attention(
    query: Tensor, cached_latents: Tensor, keys: Tensor, rank: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend to the same chosen keys with all heads, in the space of the latent (absorbed MLA, arXiv 2405.04434, 2.1.2).

    Args:
        query: `[batch, queries, heads, dim]`.
        cached_latents: `[batch, length, dim]`: keys; their first `rank` numbers are the values.
        keys: int64 `[batch, queries, chosen]`, -1 where there is none.
        rank: of the latent.
        scale: factor on the scores.

    Returns:
        `[batch, queries, heads, rank]`, and the mean over heads of the probabilities, fp32 `[batch, queries, chosen]`,
        without gradient.
    """
    out, attended = _SparseAttention.apply(
        query.flatten(0, 1), cached_latents.flatten(0, 1), _flat_rows(keys, cached_latents.shape[1]).flatten(0, 1),
        (keys < 0).flatten(0, 1), rank, scale,
    )  # fmt: skip
    return out.view(*query.shape[:3], rank), attended.view(keys.shape)


def _attention_unsupported_reason(
    query: Tensor, cached_latents: Tensor, keys: Tensor, rank: int, scale: float
) -> str | None:
    heads, dim = query.shape[2:]
    if rank != LATENT_DIM or dim - rank != ROTARY_DIM or heads not in HEADS:
        return f"{heads} heads of {rank} + {dim - rank}, not a power of two up to {HEADS[-1]} of {LATENT_DIM} + {ROTARY_DIM}"
    return _narrow(query)


@sparse_attention.implementation("npu", unsupported_reason=_attention_unsupported_reason)
@torch.compiler.disable
def _npu_sparse_attention(
    query: Tensor, cached_latents: Tensor, keys: Tensor, rank: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend by torch_npu's kernel, and compute each key's probability, which it does not return, at half its cost."""
    latent, turned = (
        part.contiguous() for part in cached_latents[:, :, None].split([rank, cached_latents.shape[-1] - rank], dim=-1)
    )
    places = keys.sort(dim=-1, descending=True).values.to(torch.int32)  # absent ones have to be last
    out = npu_operator("npu_sparse_flash_attention")(
        query[..., :rank].contiguous(), latent, latent, places[:, :, None], scale,
        query_rope=query[..., rank:].contiguous(), key_rope=turned,
        attention_mode=ABSORBED, return_softmax_lse=True,
    )[0]  # fmt: skip
    with torch.no_grad():
        attended = _attended(query, cached_latents, keys, scale)
    return out, attended


def _attended(query: Tensor, cached_latents: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Average the probabilities over heads, fp32 `[batch, queries, chosen]`."""
    flat, rows = query.flatten(0, 1), _flat_rows(keys, cached_latents.shape[1]).flatten(0, 1)
    absent, cached_latents = (keys < 0).flatten(0, 1), cached_latents.flatten(0, 1)
    attended = torch.empty(rows.shape, dtype=torch.float32, device=query.device)
    for start, end in _row_chunks(flat, rows):
        gathered = cached_latents.index_select(0, rows[start:end].flatten()).view(end - start, rows.shape[1], -1)
        weights = _weights(flat[start:end], gathered, absent[start:end], scale)
        attended[start:end] = weights.mean(1, dtype=torch.float32)
    return attended.view(keys.shape)


class _SparseAttention(torch.autograd.Function):
    """Attention of `[n, heads, dim]` queries, `[m, dim]` keys and `[n, chosen]` numbers of keys; the keys' gradient adds up in fp32."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, cached_latents: Tensor, rows: Tensor, absent: Tensor, rank: int, scale: float
    ) -> tuple[Tensor, Tensor]:
        out, attended = _attend(query, cached_latents, rows, absent, rank, scale)
        ctx.save_for_backward(query, cached_latents, rows, absent, out)
        ctx.rank, ctx.scale = rank, scale
        ctx.mark_non_differentiable(attended)
        return out, attended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, cached_latents, rows, absent, out = ctx.saved_tensors
        d_out, rank = gradients[0], ctx.rank
        # sum_k p_k dL/dp_k of each query and head (arXiv 2205.14135, appendix B.4)
        delta = (d_out.float() * out).sum(-1, keepdim=True).to(query.dtype)
        # of d_keys = d_scores^T query + weights^T [d_out, 0] one product is made
        d_out_wide = torch.nn.functional.pad(d_out, (0, query.shape[2] - rank))
        d_query = torch.empty_like(query)
        d_cached_latents = torch.zeros_like(cached_latents, dtype=torch.float32)
        wide: Tensor | None = None
        for start, end in _row_chunks(query, rows):
            chosen = rows[start:end].flatten()
            keys = cached_latents.index_select(0, chosen).view(end - start, rows.shape[1], -1)
            weights = _weights(query[start:end], keys, absent[start:end], ctx.scale)
            d_weights = d_out_wide[start:end] @ keys.mT
            d_scores = d_weights.sub_(delta[start:end]).mul_(weights).mul_(ctx.scale)
            d_query[start:end] = d_scores @ keys
            both = torch.cat([query[start:end], d_out_wide[start:end]], dim=1)
            d_keys = torch.bmm(torch.cat([d_scores, weights], dim=1).mT, both, out=keys).flatten(0, 1)
            if wide is None:
                wide = torch.empty_like(d_keys, dtype=torch.float32)
            d_cached_latents.index_add_(0, chosen, wide[: len(chosen)].copy_(d_keys))
        return d_query, d_cached_latents.to(cached_latents.dtype), None, None, None, None


@torch.library.custom_op("longcat::sparse_attention", mutates_args=())
def _attend(
    query: Tensor, cached_latents: Tensor, rows: Tensor, absent: Tensor, rank: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute output and mean probabilities as one operator, for what looks at operators."""
    out = query.new_empty(*query.shape[:2], rank)
    attended = torch.empty(rows.shape, dtype=torch.float32, device=query.device)
    for start, end in _row_chunks(query, rows):
        keys = cached_latents.index_select(0, rows[start:end].flatten()).view(end - start, rows.shape[1], -1)
        weights = _weights(query[start:end], keys, absent[start:end], scale)
        attended[start:end] = weights.mean(1, dtype=torch.float32)
        out[start:end] = (weights @ keys)[..., :rank]  # a part of the keys would be copied first
    return out, attended


@register_flop_formula(torch.ops.longcat.sparse_attention)
def _attention_flops(query: Sequence[int], _latents: Any, rows: Sequence[int], *_: Any, **__: Any) -> int:
    queries, heads, dim = query
    return 2 * queries * heads * rows[1] * 2 * dim


def _weights(query: Tensor, keys: Tensor, absent: Tensor, scale: float) -> Tensor:
    scores = (query @ keys.mT).mul_(scale)
    return scores.masked_fill_(absent[:, None], -torch.inf).softmax(-1)


def _flat_rows(keys: Tensor, length: int) -> Tensor:
    """Number keys within all sequences laid end to end; an absent one becomes the sequence's first."""
    offsets = torch.arange(keys.shape[0], device=keys.device)[:, None, None] * length
    return keys.clamp_min(0) + offsets


def _row_chunks(query: Tensor, rows: Tensor) -> Iterator[tuple[int, int]]:
    return _chunks(query.shape[0], rows.shape[1] * max(query.shape[1], query.shape[2]), GATHERED_ELEMENTS)


def _chunks(count: int, elements_each: int, limit: int | None = None) -> Iterator[tuple[int, int]]:
    size = max(1, (limit or CHUNK_ELEMENTS) // max(1, elements_each))
    for start in range(0, count, size):
        yield start, min(start + size, count)
