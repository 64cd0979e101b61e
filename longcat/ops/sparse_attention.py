"""LongCat Sparse Attention (arXiv 2608.01662): scores of the indexer, the keys chosen by them, and attention to these.

Everywhere the queries may be the last positions of the keys only; each gets what it would get if all were here.
Everything goes in chunks of queries, so that memory does not grow with the square of the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import register_flop_formula

from longcat.accelerator import npu_operator
from longcat.config import SparseAttentionConfig
from longcat.ops.chunks import spans
from longcat.ops.documents import find_document_starts, pack, readable
from longcat.ops.registry import SampleInputs, operator

CHUNK_ELEMENTS = 16_777_216
"""Numbers that the largest intermediate result of a chunk of queries may have on a CPU."""
GATHERED_ELEMENTS = 2_097_152
"""Numbers of keys gathered at once there: they are used several times, and should still be in the cache."""
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
    yield query[:, 60:], key, weight[:, 60:], sparse, False, document_starts[:, 60:]
    yield query[:, 6:16], key[:, :16], weight[:, 6:16], sparse  # fewer keys than are chosen


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

    Where fewer keys lie before a query, all are chosen. With documents, every one has a sink of its own, and no other keys
    are chosen. Of keys with equal scores the nearest are chosen: so the choice does not depend on the number of keys.

    Args:
        query: `[batch, queries, heads, dim]`, the last positions of the keys.
        key: `[batch, length, dim]`.
        weight: `[batch, queries, heads]`.
        config: budget, sink and window.
        hierarchical: score only the tokens of the best pages (for inference, without documents).
        document_starts: of the queries, see `longcat.ops.documents`; none where every row is one.

    Returns:
        int64 `[batch, queries, index_topk]` positions, -1 where there is none.
    """
    budget = config.index_topk, config.index_init_tokens, config.index_local_tokens
    if not hierarchical:
        keys: Tensor = _select_keys(query, key, weight, *budget, document_starts)
        return keys
    first, chosen = key.shape[1] - query.shape[1], []
    batch, queries, heads, dim = query.shape
    each = config.index_pages * config.index_page_tokens * max(heads, dim)
    for start, end in spans(query, queries, batch * each, CHUNK_ELEMENTS):
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
    for start, end in spans(query, queries, batch * length * heads, CHUNK_ELEMENTS):
        position = torch.arange(first + start, first + end, device=query.device)[:, None]  # [queries, 1]
        seen = first + end  # no query of the chunk reads later keys
        candidates = torch.arange(seen, device=query.device).expand(batch, end - start, -1)
        scores = index_scores(query[:, start:end], key[:, :seen], weight[:, start:end])
        begin = None if document_starts is None else document_starts[:, start:end]
        chosen.append(_best(candidates, scores, position, begin, budget, init_tokens, local_tokens))
    return torch.cat(chosen, dim=1)


@_select_keys.register_fake
def _(query: Tensor, _key: Tensor, _weight: Tensor, budget: int, *_: Any) -> Tensor:
    return query.new_empty(*query.shape[:2], budget, dtype=torch.long)


@register_flop_formula(torch.ops.longcat.select_keys)
def _selection_flops(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Count every query's scores of the keys up to the last query's, as one chunk computes them."""
    batch, queries, heads, dim = query
    return 2 * batch * queries * heads * dim * key[1]


def _best(
    candidates: Tensor,
    scores: Tensor,
    position: Tensor,
    document_starts: Tensor | None,
    most: int,
    init_tokens: int,
    local_tokens: int,
) -> Tensor:
    """Choose the `most` best of each query's candidates."""
    begin = 0 if document_starts is None else document_starts[..., None]
    always = (candidates < begin + init_tokens) | (candidates > position - local_tokens)
    foreign = (candidates > position) | (candidates < begin)
    scores = scores.masked_fill(always, torch.inf).masked_fill(foreign, -torch.inf)
    budget = min(most, candidates.shape[-1])
    places = _ranks(scores, candidates).topk(budget, dim=-1, sorted=False).indices
    keys = candidates.gather(-1, places).masked_fill(foreign.gather(-1, places), -1)
    return torch.nn.functional.pad(keys, (0, most - budget), value=-1)


def _ranks(scores: Tensor, positions: Tensor) -> Tensor:
    """Number fp32 scores so that higher ones have higher numbers, and of equal ones those at later positions: int64."""
    bits = (scores + 0.0).view(torch.int32)  # -0.0 is no other score than 0.0
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32 | positions


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
        inputs = [tensor.contiguous() for tensor in (query, key[:, :, None], weight)]
        best = indexer(*inputs, sparse_count=budget)[0][:, :, 0].long()
    else:
        begin = document_starts[..., None]
        packed = pack(document_starts, length)
        query_ends, key_ends = (
            torch.tensor(ends, dtype=torch.int32, device=query.device) for ends in (packed.query_ends, packed.key_ends)
        )
        lengths = {"actual_seq_lengths_query": query_ends, "actual_seq_lengths_key": key_ends}
        tensors = query.flatten(0, 1), packed.keys(key)[:, None], weight.flatten(0, 1)
        inputs = [tensor.contiguous() for tensor in tensors]
        best = indexer(*inputs, layout_query="TND", layout_key="TND", sparse_count=budget, **lengths)[0]
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
    each = keys.shape[0] * keys.shape[2] * query.shape[-1]
    for start, end in spans(query, keys.shape[1], each, CHUNK_ELEMENTS):
        part = query[:, start:end], key, weight[:, start:end], keys[:, start:end], attended[:, start:end]
        total = total + checkpoint(_divergence_at, *part, use_reentrant=False)
    return total


def _divergence_at(query: Tensor, key: Tensor, weight: Tensor, keys: Tensor, attended: Tensor) -> Tensor:
    return _divergence(attended, index_scores_at(query, key, weight, keys), keys >= 0)


@dataclass(frozen=True)
class HeadShare:
    """One of several processes that have attention's heads between them, equally many each.

    Each has the queries of all processes for its heads, and those of the indexer that are its own.
    """

    processes: int
    place: int
    """Of this process among them: its queries are the ones after those of as many others."""
    reduce_scatter: Callable[[Tensor], Tensor]
    """Sums fp32 `[processes, ...]` over the processes, and returns the one `[...]` at this process' place. Collective."""


ALONE = HeadShare(1, 0, lambda parts: parts[0])
"""The process that has all heads."""


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
    share: HeadShare = ALONE,
) -> Tensor:
    """Sum KL(p || softmax(I)) on all keys up to each query, with p from attention's query and key, without gradient.

    p is the mean over all heads. The gradients are worked out in the forward pass, a chunk of queries at a time: so p, the
    dearest part, is made once, and its exchange happens in the forward pass only.

    Args:
        index_query: `[batch, queries, index heads, dim]`, this process' own.
        index_key: `[batch, keys, dim]`.
        weight: `[batch, queries, index heads]`.
        query: `[batch, heads, processes * queries, head dim]`, the last positions of the keys, those of one process after
            those of the other.
        key: `[batch, heads, keys, head dim]`.
        scale: of attention's scores.
        document_starts: of all of attention's queries `[batch, processes * queries]`, see `longcat.ops.documents`; none
            where every row is one.
        padding: bool `[batch, queries]`, true for own queries that are left out.
        share: of this process in the heads.

    Returns:
        fp32 scalar, in nats, over own queries.
    """
    loss: Tensor = _DenseIndexLoss.apply(
        index_query, index_key, weight, query, key, scale, document_starts, padding, share
    )
    return loss


class _DenseIndexLoss(torch.autograd.Function):
    """Takes the gradients along; `index_key`'s adds up in fp32."""

    @staticmethod
    def forward(
        ctx: Any,
        index_query: Tensor,
        index_key: Tensor,
        weight: Tensor,
        query: Tensor,
        key: Tensor,
        scale: float,
        document_starts: Tensor | None,
        padding: Tensor | None,
        share: HeadShare,
    ) -> Tensor:
        learns = any(ctx.needs_input_grad[:3])
        total = query.new_zeros((), dtype=torch.float32)
        d_key = torch.zeros_like(index_key, dtype=torch.float32)
        d_queries, d_weights = [], []
        (batch, own, index_heads, _), (heads, _, keys) = index_query.shape, (*query.shape[1:3], key.shape[2])
        for start, end in spans(query, own, batch * max(heads * share.processes, index_heads) * keys, CHUNK_ELEMENTS):
            attended = _mean_probabilities(query, key, scale, document_starts, share, start, end)
            if padding is not None:
                attended = attended.masked_fill(padding[:, start:end, None], 0.0)
            begin = share.place * own
            starts = None if document_starts is None else document_starts[:, begin + start : begin + end]
            reach = attended.shape[-1]
            seen = readable(starts, end - start, reach, query.device).expand_as(attended)
            inputs = index_query[:, start:end], index_key[:, :reach], weight[:, start:end]
            if not learns:
                total += _divergence(attended, index_scores(*inputs), seen)
                continue
            # what surrounds this, as a part of the model that is recomputed, must not take these tensors for its own
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_same, _same):
                leaves = [tensor.detach().requires_grad_() for tensor in inputs]
                divergence = _divergence(attended, index_scores(*leaves), seen)
                d_query, d_keys, d_weight = torch.autograd.grad(divergence, leaves)
            total += divergence.detach()
            d_key[:, :reach] += d_keys
            d_queries.append(d_query)
            d_weights.append(d_weight)
        if learns:
            ctx.save_for_backward(torch.cat(d_queries, 1), d_key.to(index_key.dtype), torch.cat(d_weights, 1))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *((gradients[0] * one).to(one.dtype) for one in ctx.saved_tensors), *[None] * 6


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _mean_probabilities(
    query: Tensor, key: Tensor, scale: float, document_starts: Tensor | None, share: HeadShare, start: int, end: int
) -> Tensor:
    """Average attention's probabilities over all heads, of own queries `start` to `end`: fp32 `[batch, queries, keys]`.

    The keys are those up to the last of these queries. Collective.
    """
    batch, _, queries, _ = query.shape
    own, earlier = queries // share.processes, key.shape[2] - queries
    parts = query.new_zeros(
        share.processes, batch, end - start, earlier + queries - own + end, dtype=torch.float32
    )  # of each process' queries
    for place in range(share.processes):
        of = slice(place * own + start, place * own + end)
        keys = earlier + of.stop
        seen = readable(None if document_starts is None else document_starts[:, of], end - start, keys, query.device)
        scores = (query[:, :, of] @ key[:, :, :keys].mT).float() * scale
        parts[place, ..., :keys] = scores.masked_fill(~seen.unsqueeze(-3), -torch.inf).softmax(-1).mean(1)
    return (share.reduce_scatter(parts) / share.processes)[..., : earlier + share.place * own + end]


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
    yield draw(2, 9, 4, dim), draw(2, 40, dim), keys[:, 31:], LATENT_DIM, 0.1
    few = torch.nn.functional.pad(
        torch.arange(5).where(torch.arange(5) <= torch.arange(2, 5)[:, None], -1), (0, 7), value=-1
    )
    yield draw(2, 3, 4, dim), draw(2, 5, dim), few.expand(2, -1, -1), LATENT_DIM, 0.1  # fewer keys than are chosen


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


@_attend.register_fake
def _(
    query: Tensor, _latents: Tensor, rows: Tensor, _absent: Tensor, rank: int, _scale: float
) -> tuple[Tensor, Tensor]:
    return query.new_empty(*query.shape[:2], rank), query.new_empty(rows.shape, dtype=torch.float32)


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
    return spans(query, query.shape[0], rows.shape[1] * max(query.shape[1], query.shape[2]), GATHERED_ELEMENTS)
