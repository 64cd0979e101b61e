"""The lightning indexer on quantised queries and keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import reference

_NAME = "npu_quant_lightning_indexer"


def _need(condition: bool, reason: str) -> None:
    if not condition:
        raise RuntimeError(f"{_NAME}: {reason}")


def _spans(layout: str, lengths: Tensor | None, tensor: Tensor) -> list[tuple[int, int, int]]:
    """Return batch, first and last row of each sequence; the batch is 0 where sequences are packed."""
    if layout == "TND":
        _need(lengths is not None, "packed sequences need their ends")
        assert lengths is not None
        ends = lengths.tolist()
        return [(0, start, end) for start, end in zip([0, *ends], ends, strict=False)]
    size = tensor.shape[1]
    counts = [size] * tensor.shape[0] if lengths is None else lengths.tolist()
    _need(len(counts) == tensor.shape[0] and all(0 <= n <= size for n in counts), "lengths do not fit")
    return [(batch, 0, count) for batch, count in enumerate(counts)]


def _pages(values: Tensor, table: Tensor, count: int) -> Tensor:
    """Return the first tokens of a sequence that lies in pages."""
    size = values.shape[1]
    return values[table[: -(-count // size)].long()].flatten(0, 1)[:count]


@reference(_NAME, checked=True)
def quant_lightning_indexer(
    query: Tensor,
    key: Tensor,
    weights: Tensor,
    query_dequant_scale: Tensor,
    key_dequant_scale: Tensor,
    query_quant_mode: int,
    key_quant_mode: int,
    *,
    actual_seq_lengths_query: Tensor | None = None,
    actual_seq_lengths_key: Tensor | None = None,
    block_table: Tensor | None = None,
    layout_query: str = "BSND",
    layout_key: str = "BSND",
    sparse_count: int = 2048,
    sparse_mode: int = 3,
    pre_tokens: int = 2**63 - 1,
    next_tokens: int = 2**63 - 1,
    **types: Any,
) -> Tensor:
    """Choose each query's keys with the highest `sum over heads of weight * relu(query key)`, best first.

    Args:
        query: int8 `[batch, queries, heads, 128]` or packed `[tokens, heads, 128]`.
        key: int8 `[batch, keys, 1, 128]`, packed, or pages `[pages, tokens, 1, 128]`.
        weights: of heads, float16, as query without its last dimension.
        query_dequant_scale: likewise.
        key_dequant_scale: float16, as key without its last dimension.
        query_quant_mode: 0.
        key_quant_mode: 0.
        actual_seq_lengths_query: where packed sequences end; lengths otherwise.
        actual_seq_lengths_key: likewise.
        block_table: pages of each sequence.
        layout_query: BSND or TND.
        layout_key: the same, or PA_BSND.
        sparse_count: keys wanted, up to 2048.
        sparse_mode: 0 all keys, 3 those up to the query, the last ones aligned.
        pre_tokens: the default.
        next_tokens: the default.
        types: other types of query and key, which this device has not.

    Returns:
        Positions of keys in their sequence, -1 beyond the last chosen key (int32, `[batch, queries, 1, sparse_count]`).
    """
    paged = layout_key == "PA_BSND"
    _need(query_quant_mode == 0 and key_quant_mode == 0, "the quantisation modes must be 0")
    _need(query.dtype == key.dtype == torch.int8, f"query and key must be int8, got {query.dtype} and {key.dtype}")
    _need(
        all(t.dtype == torch.float16 for t in (weights, query_dequant_scale, key_dequant_scale)),
        "weights and scales must be float16",
    )
    _need(query.shape[-1] == key.shape[-1] == 128, "queries and keys have 128 numbers")
    _need(1 <= query.shape[-2] <= 64 and key.shape[-2] == 1, "there are up to 64 heads of queries and one of keys")
    _need(weights.shape == query_dequant_scale.shape == query.shape[:-1], "weights and scales are as query's heads")
    _need(key_dequant_scale.shape == key.shape[:-1], "key_dequant_scale is as key's heads")
    _need(paged or layout_key == layout_query, f"layouts {layout_query} and {layout_key} do not go together")
    _need(sparse_mode in (0, 3), f"sparse_mode must be 0 or 3, got {sparse_mode}")
    _need(sparse_count <= 2048, f"sparse_count must be up to 2048, got {sparse_count}")
    _need(pre_tokens == next_tokens == 2**63 - 1, "windows are not supported")
    _need(query.is_contiguous() and weights.is_contiguous(), "query and weights must be contiguous")
    result = torch.full((*query.shape[:-2], 1, sparse_count), -1, dtype=torch.int32)
    queries = _spans(layout_query, actual_seq_lengths_query, query)
    packed = layout_query == "TND"
    if paged:
        _need(block_table is not None and block_table.dim() == 2, "pages need block_table [batch, pages]")
        _need(actual_seq_lengths_key is not None, "pages need actual_seq_lengths_key")
        assert block_table is not None and actual_seq_lengths_key is not None
        keys = [(i, 0, count) for i, count in enumerate(actual_seq_lengths_key.tolist())]
    else:
        keys = _spans(layout_key, actual_seq_lengths_key, key)
    _need(len(queries) == len(keys), f"{len(queries)} sequences of queries meet {len(keys)} of keys")
    for (batch, start, end), (page, first, last) in zip(queries, keys, strict=True):
        q, w, s = (t[start:end] if packed else t[batch, start:end] for t in (query, weights, query_dequant_scale))
        if block_table is not None and paged:
            k, k_scale = (_pages(t, block_table[page], last) for t in (key, key_dequant_scale))
        else:
            k, k_scale = (t[first:last] if packed else t[page, first:last] for t in (key, key_dequant_scale))
        products = torch.einsum("qhd,kd->qhk", q.float(), k[:, 0].float()).relu()
        scores = ((products / 1024).half().float() * (w * s).float().unsqueeze(-1)).sum(1) * k_scale[:, 0].float()
        if sparse_mode == 3:
            hidden = torch.ones_like(scores, dtype=torch.bool).triu(1 + scores.shape[1] - scores.shape[0])
            scores = scores.masked_fill(hidden, -torch.inf)
        ranked = scores.sort(dim=-1, descending=True, stable=True)
        count = min(sparse_count, scores.shape[-1])
        place = torch.where(ranked.values > -torch.inf, ranked.indices, -1)[:, :count].int()
        (result if packed else result[batch])[start:end, 0, :count] = place
    return result
