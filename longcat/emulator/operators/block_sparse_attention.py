"""Attention to the blocks of keys that a mask allows each block of queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.operators.softmax import Masked, attend, attend_backward
from longcat.emulator.reference import check, reference


@reference("npu_block_sparse_attention")
def block_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_sparse_mask: Tensor,
    block_shape: list[int],
    *,
    q_input_layout: str = "TND",
    kv_input_layout: str = "TND",
    num_key_value_heads: int = 1,
    scale_value: float = 0.0,
    inner_precise: int = 1,
    actual_seq_lengths: Any = None,
    actual_seq_lengths_kv: Any = None,
    softmax_lse_flag: int | None = 0,
) -> tuple[Tensor, Tensor]:
    """Attend where the mask `[batch, heads, blocks of queries, blocks of keys]` is 1.

    Args:
        query: `[batch, heads, tokens, size]`, or packed `[tokens, heads, size]`.
        key: likewise, with `num_key_value_heads` heads.
        value: likewise.
        block_sparse_mask: int8.
        block_shape: how many queries and keys, these a multiple of 128, make a block.
        q_input_layout: TND or BNSD.
        kv_input_layout: the same.
        num_key_value_heads: see key.
        scale_value: of the products.
        inner_precise: 0 for bfloat16.
        actual_seq_lengths: of each sequence; needed in layout TND.
        actual_seq_lengths_kv: likewise.
        softmax_lse_flag: whether the second result is wanted; it is zeros otherwise.

    Returns:
        As query, and the logarithm of the sum of exponentials, `[batch, heads, tokens, 1]` or `[tokens, heads, 1]`.
    """
    _check(query, key, value, block_sparse_mask, block_shape, q_input_layout, kv_input_layout, num_key_value_heads)
    check(
        query.dtype != torch.bfloat16 or inner_precise == 0,
        "npu_block_sparse_attention",
        f"when query/key/value are bfloat16, inner_precise must be 0, got {inner_precise}",
    )
    out = query.new_zeros(*query.shape[:-1], value.shape[-1])
    lse = torch.zeros(*query.shape[:-1], 1)
    lengths = actual_seq_lengths, actual_seq_lengths_kv
    for places, keys, hidden in _sequences(query, key, block_sparse_mask, block_shape, q_input_layout, lengths):
        q, k, v = _heads_first(query[places]), _heads_first(key[keys]), _heads_first(value[keys])
        attended = attend(q, k, v, Masked(scale_value, hidden))
        out[places] = _as_given(attended.result, query).to(query.dtype)
        if softmax_lse_flag:
            lse[places] = _as_given(attended.lse, query)
    return out, lse


@reference("npu_block_sparse_attention_backward")
def block_sparse_attention_backward(
    d_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_out: Tensor,
    softmax_lse: Tensor,
    block_sparse_mask: Tensor,
    block_shape: list[int],
    actual_seq_lengths: Any,
    actual_seq_lengths_kv: Any,
    q_input_layout: str,
    kv_input_layout: str,
    num_key_value_heads: int,
    scale_value: float,
) -> tuple[Tensor, ...]:
    """Return the gradients of query, key and value."""
    _check(query, key, value, block_sparse_mask, block_shape, q_input_layout, kv_input_layout, num_key_value_heads)
    results = [torch.zeros_like(tensor) for tensor in (query, key, value)]
    lengths = actual_seq_lengths, actual_seq_lengths_kv
    for places, keys, hidden in _sequences(query, key, block_sparse_mask, block_shape, q_input_layout, lengths):
        q, k, v = _heads_first(query[places]), _heads_first(key[keys]), _heads_first(value[keys])
        out, d_result = _heads_first(attention_out[places]), _heads_first(d_out[places])
        found = attend_backward(q, k, v, Masked(scale_value, hidden), d_result, out)
        for result, place, gradient in zip(
            results, (places, keys, keys), (found.query, found.key, found.value), strict=True
        ):
            result[place] = _as_given(gradient, query).to(result.dtype)
    return tuple(results)


def _check(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, shape: list[int], of_query: str, of_key: str, heads: int
) -> None:
    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_block_sparse_attention", reason)

    need(of_query in ("TND", "BNSD") and of_query == of_key, f"layouts must be TND or BNSD both: {of_query}, {of_key}")
    need(query.dim() == (3 if of_query == "TND" else 4), f"query should be 3 or 4 dimensional, but got {query.dim()}")
    need(
        query.dtype == key.dtype == value.dtype and query.dtype in (torch.float16, torch.bfloat16),
        f"takes float16 or bfloat16 of one kind, got {query.dtype}, {key.dtype} and {value.dtype}",
    )
    need(len(shape) >= 2 and shape[0] > 0 and shape[1] % 128 == 0, f"block_shape[1] must be a multiple of 128: {shape}")
    need(key.shape[1] == heads and query.shape[1] % heads == 0, f"query's heads must be a multiple of key's, {heads}")
    need(mask.dtype == torch.int8, f"block_sparse_mask must be int8, got {mask.dtype}")


def _heads_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1)[None] if x.dim() == 3 else x


def _as_given(x: Tensor, query: Tensor) -> Tensor:
    return x[0].transpose(0, 1) if query.dim() == 3 else x


def _sequences(
    query: Tensor, key: Tensor, mask: Tensor, shape: list[int], layout: str, lengths: tuple[Any, Any]
) -> Iterator[tuple[Any, Any, Tensor]]:
    """Yield where queries and keys of a sequence lie, and which keys a query does not see."""
    check(
        (lengths[0] is None) == (lengths[1] is None) and (layout == "BNSD" or lengths[0] is not None),
        "npu_block_sparse_attention",
        "both lengths are needed in layout TND, and none goes without the other",
    )
    starts = [0, 0]
    for row in range(len(mask)):
        if lengths[0] is None:
            sizes = [query.shape[2], key.shape[2]]
        else:
            sizes = [int(of[row]) for of in lengths]
        blocks = mask[row : row + 1].bool().repeat_interleave(shape[0], 2).repeat_interleave(shape[1], 3)
        hidden = ~blocks[:, :, : sizes[0], : sizes[1]]
        if layout == "TND":
            spans = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
            yield spans[0], spans[1], hidden
            starts = [span.stop for span in spans]
        else:
            rows = slice(row, row + 1)
            yield (rows, slice(None), slice(sizes[0])), (rows, slice(None), slice(sizes[1])), hidden
