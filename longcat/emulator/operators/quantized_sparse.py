"""The lightning indexer on quantised queries and keys, and sparse attention to quantised keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import reference

_INDEXER, _ATTENTION = "npu_quant_lightning_indexer", "npu_kv_quant_sparse_flash_attention"
_NOPE, _ROPE, _TILE = 512, 64, 128
"""Sizes of a key's parts: what has no position, what has, and what shares a scale."""
_ROW = _NOPE + 2 * _ROPE + 4 * (_NOPE // _TILE)
"""Bytes of a key in the cache: int8, then the rotated part in query's type, then float32 scales."""


def _need(condition: bool, reason: str, name: str = _INDEXER) -> None:
    if not condition:
        raise RuntimeError(f"{name}: {reason}")


def _spans(name: str, layout: str, lengths: Tensor | None, tensor: Tensor) -> list[tuple[int, int, int]]:
    """Return batch, first and last row of each sequence; the batch is 0 where sequences are packed."""
    if layout == "TND":
        _need(lengths is not None, "packed sequences need their ends", name)
        assert lengths is not None
        ends = lengths.tolist()
        return [(0, start, end) for start, end in zip([0, *ends], ends, strict=False)]
    size = tensor.shape[1]
    counts = [size] * tensor.shape[0] if lengths is None else lengths.tolist()
    _need(len(counts) == tensor.shape[0] and all(0 <= n <= size for n in counts), "lengths do not fit", name)
    return [(batch, 0, count) for batch, count in enumerate(counts)]


def _pages(values: Tensor, table: Tensor, count: int) -> Tensor:
    """Return the first tokens of a sequence that lies in pages."""
    size = values.shape[1]
    return values[table[: -(-count // size)].long()].flatten(0, 1)[:count]


def _sequences(
    name: str,
    query: Tensor,
    cache: tuple[Tensor, ...],
    layout_query: str,
    layout_key: str,
    query_lengths: Tensor | None,
    key_lengths: Tensor | None,
    block_table: Tensor | None,
) -> list[tuple[Any, tuple[Tensor, ...]]]:
    """Return an index of each sequence's queries, and what belongs to its keys."""
    _need(layout_key in ("PA_BSND", layout_query), f"layouts {layout_query} and {layout_key} do not go together", name)
    queries = _spans(name, layout_query, query_lengths, query)
    keys: list[tuple[Tensor, ...]] = []
    if layout_key == "PA_BSND":
        _need(block_table is not None and block_table.dim() == 2, "pages need block_table [batch, pages]", name)
        _need(key_lengths is not None, "pages need the lengths of keys", name)
        assert block_table is not None and key_lengths is not None
        _need(block_table.shape[0] == len(key_lengths), "block_table needs a row a sequence", name)
        for table, count in zip(block_table, key_lengths.tolist(), strict=True):
            keys.append(tuple(_pages(part, table, count) for part in cache))
    else:
        for batch, start, end in _spans(name, layout_key, key_lengths, cache[0]):
            keys.append(tuple(part[start:end] if layout_key == "TND" else part[batch, start:end] for part in cache))
    _need(len(queries) == len(keys), f"{len(queries)} sequences of queries meet {len(keys)} of keys", name)
    rows = [slice(a, b) if layout_query == "TND" else (batch, slice(a, b)) for batch, a, b in queries]
    return list(zip(rows, keys, strict=True))


@reference(_INDEXER, checked=True)
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
    _need(sparse_mode in (0, 3), f"sparse_mode must be 0 or 3, got {sparse_mode}")
    _need(sparse_count <= 2048, f"sparse_count must be up to 2048, got {sparse_count}")
    _need(pre_tokens == next_tokens == 2**63 - 1, "windows are not supported")
    _need(query.is_contiguous() and weights.is_contiguous(), "query and weights must be contiguous")
    result = torch.full((*query.shape[:-2], 1, sparse_count), -1, dtype=torch.int32)
    cache = key[..., 0, :], key_dequant_scale[..., 0]
    sequences = _sequences(
        _INDEXER, query, cache, layout_query, layout_key, actual_seq_lengths_query, actual_seq_lengths_key, block_table
    )
    for rows, (k, k_scale) in sequences:
        q, w, s = query[rows], weights[rows], query_dequant_scale[rows]
        products = torch.einsum("qhd,kd->qhk", q.float(), k.float()).relu()
        scores = ((products / 1024).half().float() * (w * s).float().unsqueeze(-1)).sum(1) * k_scale.float()
        if sparse_mode == 3:
            hidden = torch.ones_like(scores, dtype=torch.bool).triu(1 + scores.shape[1] - scores.shape[0])
            scores = scores.masked_fill(hidden, -torch.inf)
        ranked = scores.sort(dim=-1, descending=True, stable=True)
        count = min(sparse_count, scores.shape[-1])
        place = torch.where(ranked.values > -torch.inf, ranked.indices, -1)[:, :count].int()
        result[rows][:, 0, :count] = place
    return result


@reference(_ATTENTION, checked=True)
def kv_quant_sparse_flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sparse_indices: Tensor,
    scale_value: float,
    key_quant_mode: int,
    value_quant_mode: int,
    *,
    key_dequant_scale: Tensor | None = None,
    value_dequant_scale: Tensor | None = None,
    block_table: Tensor | None = None,
    actual_seq_lengths_query: Tensor | None = None,
    actual_seq_lengths_kv: Tensor | None = None,
    sparse_block_size: int = 1,
    layout_query: str = "BSND",
    layout_kv: str = "BSND",
    sparse_mode: int = 3,
    pre_tokens: int = 2**63 - 1,
    next_tokens: int = 2**63 - 1,
    attention_mode: int = 0,
    quant_scale_repo_mode: int = 1,
    tile_size: int = 128,
    rope_head_dim: int = 64,
    **types: Any,
) -> Tensor:
    """Attend from each query to its chosen keys only, which are in the cache with their scales; values are the keys.

    Args:
        query: `[batch, queries, heads, 576]` or packed: 512 numbers, then 64 with a position.
        key: int8 `[batch, keys, 1, 656]`, packed, or pages: 512 numbers, 64 of query's type, 4 float32 scales.
        value: int8; the device has it in the key already, and it is not read here.
        sparse_indices: int32 `[batch, queries, 1, blocks]`, -1 behind the last one.
        scale_value: of the products.
        key_quant_mode: 2.
        value_quant_mode: 2.
        key_dequant_scale: None.
        value_dequant_scale: None.
        block_table: pages of each sequence.
        actual_seq_lengths_query: where packed sequences end; lengths otherwise.
        actual_seq_lengths_kv: likewise.
        sparse_block_size: tokens of a block, a power of two up to 16.
        layout_query: BSND or TND.
        layout_kv: the same, or PA_BSND.
        sparse_mode: 0 all keys, 3 those up to the query, the last ones aligned.
        pre_tokens: the default.
        next_tokens: the default.
        attention_mode: 2.
        quant_scale_repo_mode: 1.
        tile_size: 128.
        rope_head_dim: 64.
        types: other types of key and value, which this device has not.

    Returns:
        As query, with 512 numbers.
    """

    def need(condition: bool, reason: str) -> None:
        _need(condition, reason, _ATTENTION)

    need(query.dtype in (torch.float16, torch.bfloat16), f"query must be float16 or bfloat16, got {query.dtype}")
    need(key.dtype == value.dtype == torch.int8, f"key and value must be int8, got {key.dtype} and {value.dtype}")
    need(query.shape[-1] == _NOPE + _ROPE, f"query has {_NOPE + _ROPE} numbers a head, got {query.shape[-1]}")
    need(query.shape[-2] in (1, 2, 4, 8, 16, 32, 64, 128), f"{query.shape[-2]} heads are not supported")
    need(key.shape[-2:] == (1, _ROW), f"key is [..., 1, {_ROW}], got {list(key.shape)}")
    need(key_quant_mode == value_quant_mode == 2, "the quantisation modes must be 2")
    need(attention_mode == 2 and quant_scale_repo_mode == 1, "attention_mode must be 2, quant_scale_repo_mode 1")
    need(tile_size == _TILE and rope_head_dim == _ROPE, f"tile_size must be {_TILE}, rope_head_dim {_ROPE}")
    need(key_dequant_scale is None and value_dequant_scale is None, "the scales are in the key")
    need(sparse_block_size in (1, 2, 4, 8, 16), f"sparse_block_size must be a power of 2, got {sparse_block_size}")
    need(layout_kv != "PA_BSND" or key.shape[1] % sparse_block_size == 0, "a page holds whole sparse blocks")
    need(sparse_mode in (0, 3), f"sparse_mode must be 0 or 3, got {sparse_mode}")
    need(pre_tokens == next_tokens == 2**63 - 1, "windows are not supported")
    need(query.is_contiguous() and key.is_contiguous(), "query and key must be contiguous")
    need(
        sparse_indices.dtype == torch.int32 and sparse_indices.shape[:-1] == (*query.shape[:-2], 1),
        "sparse_indices are int32, as query with one head",
    )
    result = torch.zeros(*query.shape[:-1], _NOPE, dtype=query.dtype)
    sequences = _sequences(
        _ATTENTION, query, (key[..., 0, :],), layout_query, layout_kv, actual_seq_lengths_query, actual_seq_lengths_kv,
        block_table,
    )  # fmt: skip
    for rows, (packed,) in sequences:
        q, chosen = query[rows].float(), sparse_indices[rows][:, 0].long()
        scales = packed[:, _NOPE + 2 * _ROPE :].contiguous().view(torch.float32).repeat_interleave(_TILE, 1)
        nope = (packed[:, :_NOPE].float() * scales).to(query.dtype).float()
        rope = packed[:, _NOPE : _NOPE + 2 * _ROPE].contiguous().view(query.dtype).float()
        for row in range(len(q)):
            valid = chosen[row] >= 0
            need(bool((valid[1:] <= valid[:-1]).all()), "sparse_indices has a block behind an absent one (-1)")
            places = (chosen[row][valid, None] * sparse_block_size + torch.arange(sparse_block_size)).flatten()
            end = len(packed) if sparse_mode == 0 else len(packed) - len(q) + row + 1
            places = places[places < end]
            scores = q[row] @ torch.cat([nope, rope], 1)[places].T * scale_value
            result[rows][row] = (scores.softmax(-1).to(query.dtype).float() @ nope[places]).to(query.dtype)
    return result
