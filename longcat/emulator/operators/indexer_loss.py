"""The loss that trains the lightning indexer on attention's own probabilities, with its gradients."""

from __future__ import annotations

from collections.abc import Iterator
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


def _targets(
    places: Iterator[tuple[Any, Any]], query: Tensor, key: Tensor, rows: tuple[Tensor, Tensor], scale: float,
    ropes: tuple[Tensor | None, Tensor | None], layout: str,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield the mean of the heads' attention probabilities, `[queries, keys]`, before any mask."""
    for queries, keys in places:
        q, k = query[queries].transpose(0, 1)[None].float(), key[keys].transpose(0, 1)[None].float()
        scores = q @ repeated(k, q).mT
        if ropes[0] is not None and ropes[1] is not None:
            q_rope, k_rope = (t.transpose(0, 1)[None].float() for t in (ropes[0][queries], ropes[1][keys]))
            scores = scores + q_rope @ repeated(k_rope, q_rope).mT
        of = [row[queries] if layout == "BSND" else row[:, queries] for row in rows]  # [key heads, queries, group]
        maximum, total = (row.transpose(1, 2).flatten(0, 1).unsqueeze(-1) for row in of)
        yield ((scores[0] * scale - maximum).exp() / total).mean(0)


def _loss(scores: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Return the sum over queries of the divergence of the indexer's probabilities from attention's."""
    target = target.masked_fill(hidden, 0)
    target = target / target.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    log = scores.masked_fill(hidden, -torch.inf).log_softmax(-1).masked_fill(hidden, 0)
    return (torch.xlogy(target, target) - target * log).sum()


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
    """Return the gradients of the indexer's query, key and weights, and the loss `[1]`, over all keys before a query."""
    ropes, rows = (query_rope, key_rope), (softmax_max, softmax_sum)
    return _grad_kl_loss(_DENSE, query, key, query_index, key_index, weights, None, rows, scale_value, ropes, **options)


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
    ropes, rows = (query_rope, key_rope), (softmax_max, softmax_sum)
    return _grad_kl_loss(
        _SPARSE, query, key, query_index, key_index, weights, sparse_indices, rows, scale_value, ropes, **options
    )


def _grad_kl_loss(
    operator: str,
    query: Tensor,
    key: Tensor,
    query_index: Tensor,
    key_index: Tensor,
    weights: Tensor,
    chosen: Tensor | None,
    rows: tuple[Tensor, Tensor],
    scale: float,
    ropes: tuple[Tensor | None, Tensor | None],
    *,
    actual_seq_qlen: Any = None,
    actual_seq_klen: Any = None,
    layout: str = "BSND",
    sparse_mode: int = 3,
    **others: Any,
) -> tuple[Tensor, ...]:
    _check(operator, layout, sparse_mode, query, (actual_seq_qlen, actual_seq_klen))
    of_queries, of_keys = _spans(layout, query, actual_seq_qlen), _spans(layout, key, actual_seq_klen)
    places = list(zip(of_queries, of_keys, strict=True))
    targets = list(_targets(iter(places), query, key, rows, scale, ropes, layout))

    def loss(q: Tensor, k: Tensor, w: Tensor) -> Tensor:
        total = torch.zeros(1)
        for (queries, keys), target in zip(places, targets, strict=True):
            scores = index_scores(q[queries], k[keys], w[queries])
            hidden = band(len(scores), scores.shape[1], None, 0, last=True)
            if chosen is not None:
                hidden = hidden | _unchosen(chosen[queries][:, 0], scores.shape[1])
            total = total + _loss(scores, target, hidden)
        return total

    inputs = [query_index, key_index, weights]
    found = gradients(loss, [t.float() for t in inputs], torch.ones(1))
    value = loss(query_index.float(), key_index.float(), weights.float())
    return *(d.to(t.dtype) for d, t in zip(found, inputs, strict=True) if d is not None), value


def _unchosen(indices: Tensor, keys: int) -> Tensor:
    places = indices.long()
    seen = torch.zeros(len(places), keys + 1, dtype=torch.bool)
    seen.scatter_(-1, torch.where(places < 0, keys, places), True)
    return ~seen[:, :keys]
