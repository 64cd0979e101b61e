"""The loss that trains the lightning indexer on attention's own probabilities, with its gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.operators.attention_options import ends_of
from longcat.emulator.operators.softmax import band, repeated
from longcat.emulator.reference import check, gradients, reference

_DENSE = "npu_dense_lightning_indexer_grad_kl_loss"
_SPARSE = "npu_sparse_lightning_indexer_grad_kl_loss"


def _spans(layout: str, tensor: Tensor, ends: Any) -> list[Any]:
    """Return where sequences lie in `BSND` or `TND`."""
    if layout == "BSND":
        return list(range(len(tensor)))
    stops = ends_of(ends)
    return [slice(first, last) for first, last in zip([0, *stops[:-1]], stops, strict=True)]


def _check(operator: str, layout: str, sparse_mode: int, query: Tensor, ends: tuple[Any, Any]) -> None:
    check(layout in ("BSND", "TND"), operator, f"layout must be BSND or TND, got {layout}")
    check(sparse_mode == 3, operator, f"sparse_mode must be 3, got {sparse_mode}")
    check(query.dim() == (4 if layout == "BSND" else 3), operator, f"query has {query.dim()} dimensions")
    check(layout == "BSND" or None not in ends, operator, "layout TND needs where sequences end")


def index_scores(query: Tensor, key: Tensor, weights: Tensor) -> Tensor:
    """Return `sum over heads of weight * relu(query key)` in float32, `[queries, keys]`, of one sequence."""
    products = torch.einsum("qnd,kd->qnk", query.float(), key[:, 0].float()).relu()
    return torch.einsum("qnk,qn->qk", products, weights.float())


@reference("npu_dense_lightning_indexer_softmax_lse")
def dense_softmax_lse(
    query_index: Tensor,
    key_index: Tensor,
    weights: Tensor,
    *,
    actual_seq_qlen: Any = None,
    actual_seq_klen: Any = None,
    layout: str = "BSND",
    sparse_mode: int = 3,
    **others: Any,
) -> tuple[Tensor, Tensor]:
    """Return maximum and sum of exponentials of each query's scores, `[batch, 1, queries]`, packed `[1, tokens]`."""
    ends = actual_seq_qlen, actual_seq_klen
    _check("npu_dense_lightning_indexer_softmax_lse", layout, sparse_mode, query_index, ends)
    maxima, sums = [], []
    places = zip(_spans(layout, query_index, ends[0]), _spans(layout, key_index, ends[1]), strict=True)
    for queries, keys in places:
        scores = index_scores(query_index[queries], key_index[keys], weights[queries])
        scores = scores.masked_fill(band(len(scores), scores.shape[1], None, 0, last=True), -torch.inf)
        maximum = scores.amax(-1)
        maxima.append(maximum)
        sums.append((scores - maximum[:, None]).exp().sum(-1))
    if layout == "TND":
        return torch.cat(maxima)[None], torch.cat(sums)[None]
    return torch.stack(maxima)[:, None], torch.stack(sums)[:, None]


def _rows(layout: str, tensor: Tensor, queries: Any) -> Tensor:
    """Return what is kept of one sequence's queries, `[heads, queries, ...]`."""
    return tensor[queries] if layout == "BSND" else tensor[:, queries]


def _attended(query: Tensor, key: Tensor, kept: list[Tensor], scale: float) -> Tensor:
    """Return the mean of the heads' attention probabilities, `[queries, keys]`, before any mask, of one sequence."""
    q, k = (t.transpose(0, 1)[None].float() for t in (query, key))
    maximum, total = (row.transpose(1, 2).flatten(0, 1).unsqueeze(-1) for row in kept)  # [key heads, queries, group]
    return (((q @ repeated(k, q).mT)[0] * scale - maximum).exp() / total).mean(0)


def _with_rope(operator: str, query: Tensor, key: Tensor, *ropes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return query and key of the attention, rotated parts behind the others."""
    check((ropes[0] is None) == (ropes[1] is None), operator, "query_rope and key_rope are given both or neither")
    query, key = (
        one if rope is None else torch.cat([one, rope], -1) for one, rope in zip((query, key), ropes, strict=True)
    )
    return query, key


@reference(_DENSE)
def dense_grad_kl_loss(
    query: Tensor,
    key: Tensor,
    query_index: Tensor,
    key_index: Tensor,
    weights: Tensor,
    softmax_max: Tensor,
    softmax_sum: Tensor,
    softmax_max_index: Tensor,
    softmax_sum_index: Tensor,
    scale_value: float,
    *,
    query_rope: Tensor | None = None,
    key_rope: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, ...]:
    """Return the gradients of the indexer's query, key and weights, and the loss `[1]`, over all keys before a query.

    Probabilities are those of the maxima and sums that are given, attention's and the indexer's own.
    """
    attention = *_with_rope(_DENSE, query, key, query_rope, key_rope), (softmax_max, softmax_sum), scale_value
    own = (softmax_max_index, softmax_sum_index)
    return _grad_kl_loss(_DENSE, *attention, query_index, key_index, weights, own=own, **options)


@reference(_SPARSE)
def sparse_grad_kl_loss(
    query: Tensor,
    key: Tensor,
    query_index: Tensor,
    key_index: Tensor,
    weights: Tensor,
    sparse_indices: Tensor,
    softmax_max: Tensor,
    softmax_sum: Tensor,
    scale_value: float,
    *,
    query_rope: Tensor | None = None,
    key_rope: Tensor | None = None,
    sinks: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, ...]:
    """Do the same over the chosen keys, `sparse_indices` `[batch, queries, 1, count]`, -1 for none.

    Raises:
        NotImplementedError: for sinks.
    """
    if sinks is not None:
        raise NotImplementedError(f"{_SPARSE}: sinks are not emulated")
    attention = *_with_rope(_SPARSE, query, key, query_rope, key_rope), (softmax_max, softmax_sum), scale_value
    return _grad_kl_loss(_SPARSE, *attention, query_index, key_index, weights, chosen=sparse_indices, **options)


def _grad_kl_loss(
    operator: str,
    query: Tensor,
    key: Tensor,
    kept: tuple[Tensor, Tensor],
    scale: float,
    query_index: Tensor,
    key_index: Tensor,
    weights: Tensor,
    *,
    own: tuple[Tensor, Tensor] | None = None,
    chosen: Tensor | None = None,
    actual_seq_qlen: Any = None,
    actual_seq_klen: Any = None,
    layout: str = "BSND",
    sparse_mode: int = 3,
    **others: Any,
) -> tuple[Tensor, ...]:
    """Return the sum over queries of the divergence of the indexer's probabilities from attention's, and its gradients."""
    _check(operator, layout, sparse_mode, query, (actual_seq_qlen, actual_seq_klen))
    of_queries, of_keys = _spans(layout, query, actual_seq_qlen), _spans(layout, key, actual_seq_klen)
    places = list(zip(of_queries, of_keys, strict=True))
    loss, gradient = torch.zeros(1), []
    for queries, keys in places:
        target = _attended(query[queries], key[keys], [_rows(layout, t, queries) for t in kept], scale)
        scores = index_scores(query_index[queries], key_index[keys], weights[queries])
        hidden = band(len(scores), scores.shape[1], None, 0, last=True)
        if chosen is not None:
            hidden = hidden | _unchosen(chosen[queries][:, 0], scores.shape[1])
        target = target.masked_fill(hidden, 0)
        target = target / target.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        if own is None:
            log = scores.masked_fill(hidden, -torch.inf).log_softmax(-1)
        else:
            maximum, total = (_rows(layout, t, queries)[0].unsqueeze(-1) for t in own)
            log = scores - maximum - total.log()
        log = log.masked_fill(hidden, 0)
        loss += (torch.xlogy(target, target) - target * log).sum()
        gradient.append((log.exp().masked_fill(hidden, 0) - target).flatten())

    def all_scores(q: Tensor, k: Tensor, w: Tensor) -> Tensor:
        return torch.cat([index_scores(q[queries], k[keys], w[queries]).flatten() for queries, keys in places])

    inputs = [query_index, key_index, weights]
    found = gradients(all_scores, [t.float() for t in inputs], torch.cat(gradient))
    return *(d.to(t.dtype) for d, t in zip(found, inputs, strict=True) if d is not None), loss


def _unchosen(indices: Tensor, keys: int) -> Tensor:
    places = indices.long()
    seen = torch.zeros(len(places), keys + 1, dtype=torch.bool)
    seen.scatter_(-1, torch.where(places < 0, keys, places), True)
    return ~seen[:, :keys]
