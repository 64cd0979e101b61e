"""Native sparse attention (arXiv 2502.11089): compressed keys, attention to them, and to the blocks they choose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.operators.attention_layout import STATISTICS
from longcat.emulator.operators.attention_options import ends_of
from longcat.emulator.operators.softmax import Gradients, Masked, attend, attend_backward, repeated
from longcat.emulator.reference import check, gradients, reference


def _spans(ends: Any) -> list[slice]:
    stops = ends_of(ends)
    return [slice(first, last) for first, last in zip([0, *stops[:-1]], stops, strict=True)]


def _by_heads(x: Tensor) -> Tensor:
    """Turn `[tokens, heads, size]` into `[1, heads, tokens, size]`."""
    return x.transpose(0, 1)[None]


def _by_tokens(x: Tensor) -> Tensor:
    """Undo `_by_heads`."""
    return x[0].transpose(0, 1)


@reference("npu_nsa_compress")
def compress(
    x: Tensor, weight: Tensor, compress_block_size: int, compress_stride: int, *, actual_seq_len: Any = None
) -> Tensor:
    """Return a weighted sum of every `compress_block_size` tokens, each `compress_stride` after the one before.

    Args:
        x: packed, `[tokens, heads, size]`.
        weight: `[compress_block_size, heads]`.
        compress_block_size: a multiple of 16, at most 128.
        compress_stride: a multiple of 16, not more.
        actual_seq_len: where sequences end; one shorter than a block gives nothing.
    """
    _check_compress("npu_nsa_compress", x, weight, compress_block_size, compress_stride)
    check(actual_seq_len is not None, "npu_nsa_compress", "needs actual_seq_len")
    return _compressed(x.float(), weight.float(), compress_stride, _spans(actual_seq_len)).to(x.dtype)


def _check_compress(operator: str, x: Tensor, weight: Tensor, block: int, stride: int) -> None:
    check(
        block % 16 == stride % 16 == 0 and 0 < stride <= block <= 128,
        operator,
        f"block ({block}) and stride ({stride}) must be multiples of 16, the stride not more than the block",
    )
    check(
        weight.shape == (block, x.shape[-2]) and x.dtype == weight.dtype,
        operator,
        f"weight must be {x.dtype} [{block}, {x.shape[-2]}], got {weight.dtype} {list(weight.shape)}",
    )


def _compressed(x: Tensor, weight: Tensor, stride: int, spans: list[slice]) -> Tensor:
    block, rows = len(weight), [x.new_zeros(0, *x.shape[1:])]
    for span in spans:
        if span.stop - span.start >= block:
            rows.append(torch.einsum("tndb,bn->tnd", x[span].unfold(0, block, stride), weight))
    return torch.cat(rows)


@reference("npu_nsa_compress_grad")
def compress_grad(
    d_y: Tensor,
    x: Tensor,
    weight: Tensor,
    compress_block_size: int,
    compress_stride: int,
    *,
    actual_seq_len: Any = None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of input and weight."""
    spans = _spans(actual_seq_len)
    found = gradients(
        lambda values, by: _compressed(values, by, compress_stride, spans), [x.float(), weight.float()], d_y.float()
    )
    return tuple(None if d is None else d.to(x.dtype) for d in found)


@reference("npu_nsa_compress_infer.cache")
def compress_infer(
    x: Tensor,
    weight: Tensor,
    slot_mapping: Tensor,
    compress_block_size: int,
    compress_stride: int,
    page_block_size: int,
    *,
    block_table: Tensor | None = None,
    actual_seq_len: Any = None,
    cache: Tensor,
) -> Tensor:
    """Compress the last block of each sequence that has just become whole, and put it into its slot of the cache.

    Args:
        x: pages, `[pages, page_block_size, heads, size]`.
        weight: see `compress`.
        slot_mapping: a slot for each sequence.
        compress_block_size: see `compress`.
        compress_stride: likewise.
        page_block_size: 64 or 128.
        block_table: pages of each sequence.
        actual_seq_len: lengths.
        cache: `[slots, heads, size]`, in place.
    """
    _check_compress("npu_nsa_compress_infer", x, weight, compress_block_size, compress_stride)
    lengths = ends_of(actual_seq_len)
    for number, (slot, length) in enumerate(zip(slot_mapping.tolist(), lengths, strict=False)):
        if length < compress_block_size or (length - compress_block_size) % compress_stride:
            continue
        pages = torch.arange(len(x)) if block_table is None else block_table[number].long()
        tokens = x[pages[: -(-length // page_block_size)]].flatten(0, 1)[:length][-compress_block_size:]
        cache[slot] = (tokens.float() * weight.float().unsqueeze(-1)).sum(0).to(cache.dtype)
    return cache


@reference("npu_nsa_compress_attention")
def compress_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale_value: float,
    head_num: int,
    compress_block_size: int,
    compress_stride: int,
    select_block_size: int,
    select_block_count: int,
    *,
    topk_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    actual_seq_qlen: Any = None,
    actual_cmp_seq_kvlen: Any = None,
    actual_sel_seq_kvlen: Any = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attend to compressed keys, and choose the blocks whose compressed keys weigh most, all heads of a group together.

    Returns:
        `[tokens, heads, size]`; the chosen blocks, `[tokens, key heads, select_block_count]`; each row's maximum and
        sum, by heads in each sequence.
    """
    _check_choice("npu_nsa_compress_attention", query, key, compress_block_size, compress_stride, select_block_size)
    spans = [_spans(ends) for ends in (actual_seq_qlen, actual_cmp_seq_kvlen, actual_sel_seq_kvlen)]
    outs, choices, maxima, sums = [], [], [], []
    per_block = (select_block_size // compress_stride, compress_block_size // compress_stride)
    for queries, keys, blocks in zip(*spans, strict=True):
        q, k, v = _by_heads(query[queries]), _by_heads(key[keys]), _by_heads(value[keys])
        hidden = None if atten_mask is None else atten_mask[: q.shape[2], : k.shape[2]].bool()
        masked = Masked(scale_value, hidden)
        attended = attend(q, k, v, masked)
        scores = _importance(_probabilities(q, k, masked), k.shape[1], blocks.stop - blocks.start, *per_block)
        if topk_mask is not None:
            scores = scores.masked_fill(topk_mask[: scores.shape[1], : scores.shape[2]].bool(), torch.inf)
        choices.append(_best(scores, select_block_count))
        outs.append(_by_tokens(attended.result).to(query.dtype))
        maxima.append(attended.maximum.reshape(-1, 1))
        sums.append(attended.total.reshape(-1, 1))
    rows = [torch.cat(of).expand(-1, STATISTICS).reshape(-1, head_num, STATISTICS) for of in (maxima, sums)]
    return torch.cat(outs), torch.cat(choices), rows[0], rows[1]


def _check_choice(operator: str, query: Tensor, key: Tensor, block: int, stride: int, selected: int) -> None:
    check(
        block % 16 == stride % 16 == selected % 16 == 0 and stride <= block <= selected and selected % stride == 0,
        operator,
        f"stride ({stride}), block ({block}) and selected block ({selected}) must be multiples of 16, none less than "
        "the one before, the last one of the first",
    )
    check(
        query.dtype == key.dtype and query.dtype in (torch.float16, torch.bfloat16), operator,
        f"takes float16 or bfloat16 of one kind, got {query.dtype} and {key.dtype}",
    )  # fmt: skip


def _probabilities(query: Tensor, key: Tensor, masked: Masked) -> Tensor:
    """Return `[batch, heads, queries, keys]`: what attention makes of values each of which has a place of its own."""
    return attend(query, key, torch.eye(key.shape[2]).expand(*key.shape[:2], -1, -1), masked).result


def _importance(probabilities: Tensor, key_heads: int, blocks: int, steps: int, overlap: int) -> Tensor:
    """Return what each block to choose weighs, `[key heads, tokens, blocks]`: its compressed keys as they overlap it."""
    keys, width = probabilities.shape[-1], steps + overlap - 1
    weights = torch.zeros(keys, blocks)
    for block in range(blocks):
        for back in range(width):
            place = steps * (block + 1) - back
            if 0 <= place < keys:
                weights[place, block] += min(back + 1 if back < width / 2 else width - back, overlap)
    groups = (probabilities @ weights)[0]
    return groups.unflatten(0, (key_heads, -1)).sum(1)


def _best(scores: Tensor, count: int) -> Tensor:
    """Return the blocks of the highest scores, `[tokens, key heads, count]`, -1 where there are none."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    chosen = torch.full((*order.shape[:-1], count), -1, dtype=torch.int32)
    chosen[..., : order.shape[-1]] = order
    return chosen.transpose(0, 1)


@reference("npu_nsa_compress_attention_infer")
def compress_attention_infer(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale_value: float,
    head_num: int,
    key_value_head_num: int,
    select_block_size: int,
    select_block_count: int,
    page_block_size: int,
    compress_block_size: int,
    compress_stride: int,
    *,
    layout: str = "TND",
    block_table: Tensor | None = None,
    actual_cmp_seq_kvlen: Any = None,
    **others: Any,
) -> tuple[Tensor, Tensor]:
    """Do the same for one token of each sequence and a paged cache of compressed keys."""
    operator = "npu_nsa_compress_attention_infer"
    _check_choice(operator, query, key, compress_block_size, compress_stride, select_block_size)
    check(layout in ("TND", "BSND"), operator, f"layout must be TND or BSND, got {layout}")
    check(others.get("atten_mask") is None and others.get("topk_mask") is None, operator, "masks are not supported")
    steps, overlap = select_block_size // compress_stride, compress_block_size // compress_stride
    outs, choices = [], []
    rows = query.reshape(-1, head_num, query.shape[-1])
    for number, length in enumerate(ends_of(actual_cmp_seq_kvlen)):
        q = _by_heads(rows[number : number + 1])
        k, v = (_page(t, block_table, number, length, key_value_head_num) for t in (key, value))
        masked = Masked(scale_value)
        attended = attend(q, k, v, masked)
        scores = _importance(q, k, masked, attended, -(-length // steps), steps, overlap)
        choices.append(_best(scores, select_block_count))
        outs.append(_by_tokens(attended.result).to(query.dtype))
    out = torch.cat(outs)
    return out.view(*query.shape[:-1], out.shape[-1]), torch.cat(choices)


def _page(cache: Tensor, block_table: Tensor | None, number: int, length: int, heads: int) -> Tensor:
    """Gather a sequence from pages `[pages, size, width]` or `[pages, size, heads, size]`."""
    apart = cache.unflatten(-1, (heads, -1)) if cache.dim() == 3 else cache
    pages = torch.arange(len(apart)) if block_table is None else block_table[number].long()
    tokens = apart[pages[: -(-length // apart.shape[1])]].flatten(0, 1)[:length]
    return _by_heads(tokens)


def _selected(query: Tensor, key: Tensor, topk: Tensor, block: int) -> Tensor:
    """Return which keys are not in the blocks chosen for a query, `[1, heads, tokens, keys]`."""
    blocks = -(-key.shape[2] // block)
    places = topk.transpose(0, 1).long()  # [key heads, tokens, count]
    seen = torch.zeros(*places.shape[:2], blocks + 1, dtype=torch.bool)
    seen.scatter_(-1, torch.where(places < 0, blocks, places), True)
    tokens = seen[..., :blocks].repeat_interleave(block, -1)[None, ..., : key.shape[2]]
    return ~repeated(tokens, query)


@reference("npu_nsa_select_attention")
def select_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    topk_indices: Tensor,
    scale_value: float,
    head_num: int,
    select_block_size: int,
    select_block_count: int,
    *,
    atten_mask: Tensor | None = None,
    actual_seq_qlen: Any = None,
    actual_seq_kvlen: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend to the chosen blocks of keys, `topk_indices` `[tokens, key heads, select_block_count]`.

    Returns:
        `[tokens, heads, size]`, and each row's maximum and sum, `[tokens, heads, 8]`.
    """
    _check_selection(query, key, value, topk_indices)
    outs, maxima, sums = [], [], []
    for queries, keys in zip(_spans(actual_seq_qlen), _spans(actual_seq_kvlen), strict=True):
        q, k, v = _by_heads(query[queries]), _by_heads(key[keys]), _by_heads(value[keys])
        hidden = _selected(q, k, topk_indices[queries], select_block_size)
        attended = attend(q, k, v, Masked(scale_value, hidden, rounded=True))
        outs.append(_by_tokens(attended.result).to(query.dtype))
        maxima.append(_by_tokens(attended.maximum))
        sums.append(_by_tokens(attended.total))
    rows = [torch.cat(of).expand(-1, -1, STATISTICS) for of in (maxima, sums)]
    return torch.cat(outs), rows[0], rows[1]


def _check_selection(query: Tensor, key: Tensor, value: Tensor, topk: Tensor) -> None:
    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_nsa_select_attention", reason)

    need(
        query.dtype == key.dtype == value.dtype and query.dtype in (torch.float16, torch.bfloat16),
        f"takes float16 or bfloat16 of one kind, got {query.dtype}, {key.dtype} and {value.dtype}",
    )
    need(
        query.shape[-1] == key.shape[-1] >= value.shape[-1],
        "sizes must be equal for query and key, not less than value's",
    )
    need(query.shape[1] % key.shape[1] == 0, f"query's heads must be a multiple of key's ({key.shape[1]})")
    need(topk.dtype == torch.int32, f"topk_indices must be int32, got {topk.dtype}")


@reference("npu_nsa_select_attention_grad")
def select_attention_grad(
    d_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_out: Tensor,
    softmax_max: Tensor,
    softmax_sum: Tensor,
    topk_indices: Tensor,
    scale_value: float,
    head_num: int,
    select_block_size: int,
    select_block_count: int,
    *,
    atten_mask: Tensor | None = None,
    actual_seq_qlen: Any = None,
    actual_seq_kvlen: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    found: list[Gradients] = []
    for queries, keys in zip(_spans(actual_seq_qlen), _spans(actual_seq_kvlen), strict=True):
        q, k, v = _by_heads(query[queries]), _by_heads(key[keys]), _by_heads(value[keys])
        masked = Masked(scale_value, _selected(q, k, topk_indices[queries], select_block_size))
        maximum, total = (_by_heads(t[queries])[..., :1] for t in (softmax_max, softmax_sum))
        out, d_result = _by_heads(attention_out[queries]), _by_heads(d_out[queries])
        found.append(attend_backward(q, k, v, masked, d_result, out, (maximum, total)))
    parts = ([g.query for g in found], [g.key for g in found], [g.value for g in found])
    d_query, d_key, d_value = (torch.cat([_by_tokens(d) for d in of]).to(query.dtype) for of in parts)
    return d_query, d_key, d_value


@reference("npu_nsa_select_attention_infer")
def select_attention_infer(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    topk_indices: Tensor,
    scale_value: float,
    head_num: int,
    key_value_head_num: int,
    select_block_size: int,
    select_block_count: int,
    page_block_size: int,
    *,
    layout: str = "BSND",
    atten_mask: Tensor | None = None,
    block_table: Tensor | None = None,
    actual_seq_qlen: Any = None,
    actual_seq_kvlen: Any = None,
) -> Tensor:
    """Attend from one token of each sequence to the chosen blocks in a paged cache."""
    operator = "npu_nsa_select_attention_infer"
    check(layout in ("BSND", "BSH", "TND"), operator, f"layout must be BSND, BSH or TND, got {layout}")
    check(atten_mask is None and block_table is not None, operator, "needs a block_table and no atten_mask")
    lengths = ends_of(actual_seq_kvlen)
    rows = query.reshape(len(lengths), head_num, -1)
    outs = []
    for number, length in enumerate(lengths):
        q = _by_heads(rows[number : number + 1])
        k, v = (_page(t, block_table, number, length, key_value_head_num) for t in (key, value))
        hidden = _selected(q, k, topk_indices[number : number + 1].view(1, key_value_head_num, -1), select_block_size)
        outs.append(_by_tokens(attend(q, k, v, Masked(scale_value, hidden, rounded=True)).result).to(query.dtype))
    out = torch.cat(outs)
    return out.reshape(*query.shape[:-1], -1)
