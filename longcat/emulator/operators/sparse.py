"""The lightning indexer and sparse attention, from sequences or a paged cache, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.operators.attention_options import ends_of
from longcat.emulator.operators.indexer_loss import index_scores
from longcat.emulator.reference import check, gradients, reference


def _check_contiguous(name: str, **tensors: Tensor | None) -> None:
    """Refuse strided tensors, as the wheel's documentation does for these two operators."""
    for argument, tensor in tensors.items():
        if tensor is not None and not tensor.is_contiguous():
            raise RuntimeError(f"{name}: {argument} is not contiguous, which the device's kernel does not take")


@reference("npu_lightning_indexer")
def lightning_indexer(
    query: Tensor,
    key: Tensor,
    weights: Tensor,
    *,
    actual_seq_lengths_query: Tensor | None = None,
    actual_seq_lengths_key: Tensor | None = None,
    block_table: Tensor | None = None,
    layout_query: str = "BSND",
    layout_key: str = "BSND",
    sparse_count: int = 2048,
    sparse_mode: int = 3,
    return_value: bool = False,
    **others: Any,
) -> tuple[Tensor, Tensor]:
    """Choose each query's keys with the highest `sum over heads of weight * relu(query key)`, best first.

    Args:
        query: `[batch, queries, heads, size]` or packed `[tokens, heads, size]`.
        key: `[batch, keys, 1, size]` or packed.
        weights: `[batch, queries, heads]` or packed.
        actual_seq_lengths_query: where packed sequences end; lengths otherwise.
        actual_seq_lengths_key: likewise.
        block_table: pages of each sequence, in layout PA_BSND.
        layout_query: BSND or TND.
        layout_key: the same, or PA_BSND: pages `[pages, tokens, 1, size]`.
        sparse_count: keys wanted.
        sparse_mode: 0 all keys, 3 those up to the query, the last ones aligned.
        return_value: whether the scores are wanted.
        others: windows, which take their defaults only.

    Returns:
        Positions of keys in their sequence, -1 beyond the last chosen key (int32, `[batch, queries, 1, sparse_count]`),
        and their scores in the query's type, or nothing.
    """
    _check_contiguous("npu_lightning_indexer", query=query, key=key, weights=weights)
    places, values = [], []
    ends = actual_seq_lengths_query, actual_seq_lengths_key
    spans = _Spans((layout_query, layout_key), query, key, ends, block_table)
    for q, k, w in spans.parts(query, key, weights):
        scores = index_scores(q, k, w)
        scores = scores.masked_fill(_hidden(scores, sparse_mode), -torch.inf)
        ranked = scores.sort(dim=-1, descending=True, stable=True)
        count = min(sparse_count, scores.shape[-1])
        place = torch.full((len(q), sparse_count), -1, dtype=torch.int32)
        value = torch.full((len(q), sparse_count), -torch.inf)
        valid = ranked.values[:, :count] > -torch.inf
        place[:, :count] = torch.where(valid, ranked.indices[:, :count], -1)
        value[:, :count] = ranked.values[:, :count]
        places.append(place[:, None])
        values.append(value[:, None])
    chosen = spans.joined(places, -1)
    scores = spans.joined(values, -torch.inf)
    return chosen, scores.to(query.dtype) if return_value else query.new_empty(0)


@reference("npu_lightning_indexer_grad")
def lightning_indexer_grad(
    query: Tensor,
    key: Tensor,
    d_values: Tensor,
    sparse_indices: Tensor,
    weights: Tensor,
    actual_seq_lengths_query: Tensor | None = None,
    actual_seq_lengths_key: Tensor | None = None,
    layout: str = "BSND",
    **others: Any,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of query, key and weights, through the scores of the chosen keys."""
    spans = _Spans((layout, layout), query, key, (actual_seq_lengths_query, actual_seq_lengths_key))

    def values(q_all: Tensor, k_all: Tensor, w_all: Tensor) -> Tensor:
        rows = []
        chosen = spans.query_parts(sparse_indices)
        for (q, k, w), index in zip(spans.parts(q_all, k_all, w_all), chosen, strict=True):
            places = index[:, 0].long()
            taken = index_scores(q, k, w).gather(-1, places.clamp_min(0))
            rows.append((taken * (places >= 0))[:, None])
        return spans.joined(rows)

    return tuple(gradients(values, [query, key, weights], d_values.float()))


@reference("npu_sparse_flash_attention")
def sparse_flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    sparse_indices: Tensor,
    scale_value: float,
    *,
    return_softmax_lse: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend from each query to its chosen keys only; all heads share one key head.

    Returns:
        As query; each row's maximum and sum (float32, `[batch, 1, queries, heads]`, packed `[1, tokens, heads]`) where
        they are wanted, else nothing.
    """
    check(value is not None, "npu_sparse_flash_attention", "value=None is only supported with CANN >= 9.2.0.")
    ropes = {name: options.get(name) for name in ("query_rope", "key_rope")}
    tensors = {"query": query, "key": key, "value": value, "sparse_indices": sparse_indices, **ropes}
    _check_contiguous("npu_sparse_flash_attention", **tensors)
    valid = sparse_indices >= 0
    if bool((valid[..., 1:] > valid[..., :-1]).any()):
        raise RuntimeError("npu_sparse_flash_attention: sparse_indices has a key behind an absent one (-1)")
    given = [query, key, value, *ropes.values()]
    lengths = options.get("actual_seq_lengths_query"), options.get("actual_seq_lengths_kv")
    layouts = options.get("layout_query", "BSND"), options.get("layout_kv", "BSND")
    outcome = _sparse(given, sparse_indices, scale_value, layouts, lengths, options)
    empty = query.new_empty(0, dtype=torch.float32)
    return outcome if return_softmax_lse else (outcome[0], empty, empty)


@reference("npu_sparse_flash_attention_grad")
def sparse_flash_attention_grad(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    sparse_indices: Tensor,
    d_out: Tensor,
    out: Tensor,
    softmax_max: Tensor,
    softmax_sum: Tensor,
    scale_value: float,
    sparse_block_size: int,
    query_rope: Tensor | None = None,
    key_rope: Tensor | None = None,
    actual_seq_qlen: Tensor | None = None,
    actual_seq_kvlen: Tensor | None = None,
    layout: str = "BSND",
    sparse_mode: int = 3,
    pre_tokens: int = 0,
    next_tokens: int = 0,
    attention_mode: int = 0,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of query, key, value and the rotary parts; the last two are empty if not given."""
    options = {"sparse_block_size": sparse_block_size, "sparse_mode": sparse_mode}
    lengths = actual_seq_qlen, actual_seq_kvlen

    def forward(*inputs: Tensor) -> Tensor:
        return _sparse(list(inputs), sparse_indices, scale_value, (layout, layout), lengths, options)[0]

    all_gradients = gradients(forward, [query, key, value, query_rope, key_rope], d_out)
    return *all_gradients[:3], *(query.new_empty(0) if tensor is None else tensor for tensor in all_gradients[3:])


def _sparse(
    given: list[Tensor | None],
    sparse_indices: Tensor,
    scale: float,
    layouts: tuple[str, str],
    lengths: tuple[Tensor | None, Tensor | None],
    options: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    block, sinks = options.get("sparse_block_size", 1), options.get("sinks")
    query, key, value, query_rope, key_rope = given
    assert query is not None and key is not None and value is not None
    spans = _Spans(layouts, query, key, lengths, options.get("block_table"))
    outs, maxima, sums = [], [], []
    of_queries = (spans.query_parts(tensor) for tensor in (query, sparse_indices, query_rope))
    of_keys = (spans.key_parts(tensor) for tensor in (key, value, key_rope))
    for q, index, q_rope, k, v, k_rope in zip(*of_queries, *of_keys, strict=True):
        scores = torch.einsum("qnd,kd->qnk", q.float(), k[:, 0].float())
        if q_rope is not None:
            scores = scores + torch.einsum("qnd,kd->qnk", q_rope.float(), k_rope[:, 0].float())
        places = index[:, 0].long()
        blocks = -(-len(k) // block)
        chosen = torch.zeros(len(q), blocks + 1, dtype=torch.bool)
        chosen = chosen.scatter_(-1, torch.where(places < 0, blocks, places), True)[:, :-1]
        chosen = chosen.repeat_interleave(block, 1)[:, : len(k)]
        hidden = ~chosen | _hidden(scores[:, 0], options.get("sparse_mode", 3))
        scores = (scores * scale).masked_fill(hidden[:, None], -torch.inf)
        maximum = _row_maximum(scores.detach().transpose(0, 1), sinks).transpose(0, 1)
        probabilities = (scores - maximum).exp()
        total = probabilities.sum(-1, keepdim=True)
        total = total if sinks is None else total + (sinks.float().view(-1, 1) - maximum).exp()
        tiny = torch.finfo(torch.float32).tiny
        outs.append(torch.einsum("qnk,kd->qnd", probabilities / total.clamp_min(tiny), v[:, 0].float()).to(query.dtype))
        maxima.append(maximum[..., 0])
        sums.append(total[..., 0])
    maximum, total = (spans.joined(both).unsqueeze(0 if spans.packed else 1) for both in (maxima, sums))
    return spans.joined(outs), maximum, total


def _row_maximum(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Return each row's maximum, the sink's logit among them; 0 for a row that sees nothing."""
    if scores.shape[-1]:
        maximum = scores.amax(-1, keepdim=True)
    else:
        maximum = scores.new_full((*scores.shape[:-1], 1), -torch.inf)
    if sinks is not None:
        maximum = maximum.maximum(sinks.float().view(-1, 1, 1))
    return maximum.masked_fill(maximum == -torch.inf, 0)


def _hidden(scores: Tensor, sparse_mode: int) -> Tensor:
    queries, keys = scores.shape
    if sparse_mode == 0:
        return torch.zeros(queries, keys, dtype=torch.bool)
    if sparse_mode != 3:
        raise NotImplementedError(f"sparse_mode {sparse_mode} is not emulated")
    return torch.ones(queries, keys, dtype=torch.bool).triu(1 + keys - queries)


class _Spans:
    """Sequences of a batch, each `[tokens, heads, size]`."""

    def __init__(
        self, layouts: tuple[str, str], query: Tensor, key: Tensor, ends: tuple[Any, Any], pages: Tensor | None = None
    ) -> None:
        of_query, of_key = layouts
        if of_query not in ("BSND", "TND") or of_key not in ("BSND", "TND", "PA_BSND"):
            raise RuntimeError(f"layouts must be BSND or TND, and PA_BSND for keys, got {of_query} and {of_key}")
        self.packed, self.tokens, self.pages = of_query == "TND", query.shape[1], pages
        self.query = self._of(query, ends[0], self.packed)
        if of_key != "PA_BSND":
            self.key = self._of(key, ends[1], of_key == "TND")
        elif pages is None or ends[1] is None:
            raise RuntimeError("layout PA_BSND needs block_table and the lengths of keys")
        else:
            self.key = ends_of(ends[1])

    @staticmethod
    def _of(tensor: Tensor, ends: Any, packed: bool) -> list[Any]:
        if not packed:
            lengths = [tensor.shape[1]] * len(tensor) if ends is None else ends_of(ends)
            return [(row, slice(length)) for row, length in enumerate(lengths)]
        if ends is None:
            raise RuntimeError("layout TND needs where sequences end")
        stops = ends_of(ends)
        return [slice(first, last) for first, last in zip([0, *stops[:-1]], stops, strict=True)]

    def query_parts(self, tensor: Tensor | None) -> list[Any]:
        return [None if tensor is None else tensor[span] for span in self.query]

    def key_parts(self, tensor: Tensor | None) -> list[Any]:
        if tensor is None or self.pages is None:
            return [None if tensor is None else tensor[span] for span in self.key]
        size = tensor.shape[1]
        return [
            tensor[row[: -(-length // size)].long()].flatten(0, 1)[:length]
            for row, length in zip(self.pages, self.key, strict=True)
        ]

    def parts(self, query: Tensor, key: Tensor, other: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Yield query, key and the further tensors of the query, by sequence."""
        return list(zip(self.query_parts(query), self.key_parts(key), self.query_parts(other), strict=True))

    def joined(self, parts: list[Tensor], fill: float = 0) -> Tensor:
        """Join what queries have; rows behind a sequence are filled."""
        if self.packed:
            return torch.cat(parts)
        return torch.stack(
            [torch.cat((part, part.new_full((self.tokens - len(part), *part.shape[1:]), fill))) for part in parts]
        )
