"""Caches of keys and values in blocks: writing, reading, and what is computed right before they are written.

A slot is the number of a block times the size of a block plus the position in it; negative slots are left out.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.number_formats import INT8, encode
from longcat.emulator.operators.rotary import rotate_halves
from longcat.emulator.reference import reference


def write_blocks(cache: Tensor, rows: Tensor, slots: Tensor) -> None:
    """Write rows `[tokens, ..]` into a cache `[blocks, block size, ..]`."""
    slots = slots.long().flatten()
    size, given = cache.shape[1], slots >= 0
    cache[slots[given] // size, slots[given] % size] = rows[given].reshape(-1, *cache.shape[2:]).to(cache.dtype)


def write_fractal_blocks(cache: Tensor, rows: Tensor, slots: Tensor) -> None:
    """Write rows into a cache in the order FRACTAL_NZ: `[blocks, width / n0, block size, n0]`."""
    slots = slots.long().flatten()
    size, given = cache.shape[2], slots >= 0
    parts = rows[given].reshape(-1, cache.shape[1], cache.shape[3]).to(cache.dtype)
    cache[slots[given] // size, :, slots[given] % size] = parts


def read_blocks(cache: Tensor, blocks: Tensor, length: int, start: int = 0) -> Tensor:
    """Return `length` rows from `start` on of the sequence whose block numbers are given: `[length, ..]`."""
    size = cache.shape[1]
    needed = blocks.long().flatten()[start // size : -(-(start + length) // size)]
    first = start - start // size * size
    return cache[needed].flatten(0, 1)[first : first + length]


def _same_tokens(name: str, key: Tensor, slots: Tensor) -> None:
    if key.shape[0] != slots.numel():
        raise RuntimeError(f"{name}: {key.shape[0]} tokens meet {slots.numel()} slots")


@reference("atb::_npu_reshape_and_cache")
def reshape_and_cache(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_indices: Tensor) -> None:
    """Write keys and values `[tokens, heads, size]` into their caches, in ND or in FRACTAL_NZ."""
    _same_tokens("_npu_reshape_and_cache", key, slot_indices)
    for rows, cache in ((key, key_cache), (value, value_cache)):
        natural = cache.shape[2:] == rows.shape[1:]
        (write_blocks if natural else write_fractal_blocks)(cache, rows, slot_indices)


@reference("atb::_npu_reshape_and_cache_siso")
def reshape_and_cache_one(key: Tensor, key_cache: Tensor, slot_indices: Tensor) -> None:
    """Write keys `[tokens, heads, size]` into their cache."""
    _same_tokens("_npu_reshape_and_cache_siso", key, slot_indices)
    write_blocks(key_cache, key, slot_indices)


@reference("npu_scatter_pa_kv_cache", checked=True)
def scatter_pa_kv_cache(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    *,
    compress_lens: Tensor | None = None,
    compress_seq_offsets: Tensor | None = None,
    seq_lens: Tensor | None = None,
    cache_mode: str | None = "PA_NZ",
) -> None:
    """Write keys and values into their caches.

    Args:
        key: `[tokens, heads, size]`, or `[batch, tokens, heads, size]` of which each head is compressed.
        value: the same with its own size.
        key_cache: `[blocks, width / n0, block size, n0]` for `PA_NZ`, `[blocks, block size, heads, size]` for `Norm`.
        value_cache: see above.
        slot_mapping: slot of each token, or the first one of each head `[batch, heads]`.
        compress_lens: of how many tokens the mean is taken for one, `[batch, heads]`.
        compress_seq_offsets: where it starts, `[batch * heads]`; None for 0.
        seq_lens: tokens of each of the batch.
        cache_mode: see above; None for `Norm`.
    """
    name = "npu_scatter_pa_kv_cache"
    if len({tensor.dtype for tensor in (key, value, key_cache, value_cache)}) > 1:
        raise RuntimeError(f"{name}: key, value and their caches must have the same type")
    if cache_mode not in (None, "Norm", "PA_NZ"):
        raise RuntimeError(f"{name}: cache_mode must be 'Norm' or 'PA_NZ', got {cache_mode!r}")
    if key.dim() == 4:
        if compress_lens is None or seq_lens is None:
            raise RuntimeError(f"{name}: compress_lens and seq_lens are needed with key and value of 4 dimensions")
        options = (compress_lens, compress_seq_offsets, seq_lens)
        _write_compressed(key_cache, key, slot_mapping, *options)
        _write_compressed(value_cache, value, slot_mapping, *options)
        return
    _same_tokens(name, key, slot_mapping)
    write = write_fractal_blocks if cache_mode == "PA_NZ" else write_blocks
    write(key_cache, key, slot_mapping)
    write(value_cache, value, slot_mapping)


def _write_compressed(
    cache: Tensor, rows: Tensor, slots: Tensor, lengths: Tensor, offsets: Tensor | None, tokens: Tensor
) -> None:
    """Write each head's tokens one after another, those from an offset on merged into their mean."""
    heads = rows.shape[2]
    for batch, count in enumerate(tokens.tolist()):
        for head in range(heads):
            own = rows[batch, :count, head]
            length = int(lengths.reshape(-1, heads)[batch, head])
            if length > 0:
                start = 0 if offsets is None else int(offsets.flatten()[batch * heads + head])
                mean = own[start : start + length].float().mean(0, keepdim=True).to(own.dtype)
                own = torch.cat([own[:start], mean, own[start + length :]])
            first = int(slots.reshape(-1, heads)[batch, head])
            write_blocks(cache, own.unsqueeze(1), torch.arange(first, first + own.shape[0]))


@reference("npu_scatter_pa_kv_cache_functional", checked=True)
def scatter_pa_kv_cache_functional(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """Return copies of the caches with keys and values written into them."""
    caches = key_cache.clone(), value_cache.clone()
    scatter_pa_kv_cache(key, value, *caches, slot_mapping, **options)
    return caches


@reference("npu_scatter_pa_cache.value")
def scatter_pa_cache(
    key: Tensor,
    slot_mapping: Tensor,
    *,
    compress_lens: Tensor | None = None,
    compress_seq_offsets: Tensor | None = None,
    seq_lens: Tensor | None = None,
    key_cache: Tensor,
) -> Tensor:
    """Write keys into their cache `[blocks, block size, heads, size]`; see `scatter_pa_kv_cache`."""
    if key.dim() == 4 and compress_lens is not None and seq_lens is not None:
        _write_compressed(key_cache, key, slot_mapping, compress_lens, compress_seq_offsets, seq_lens)
    else:
        _same_tokens("npu_scatter_pa_cache", key, slot_mapping)
        write_blocks(key_cache, key, slot_mapping)
    return key_cache


@reference("npu_gather_pa_kv_cache")
def gather_pa_kv_cache(
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    seq_offset: Tensor | None = None,
    is_seq_lens_cumsum: bool = False,
) -> None:
    """Read sequences out of caches one behind another into `key` and `value`.

    Args:
        key_cache: `[blocks, block size, heads, size]`, or in FRACTAL_NZ `[blocks, width / n0, block size, n0]`.
        value_cache: the same with its own size.
        block_tables: block numbers of each sequence.
        seq_lens: lengths, or with `is_seq_lens_cumsum` where sequences start and the last one ends.
        key: `[tokens, heads, size]`, overwritten.
        value: the same, overwritten.
        seq_offset: first token of each sequence that is read.
        is_seq_lens_cumsum: see above.
    """
    for cache, target in ((key_cache, key), (value_cache, value)):
        if cache.shape[2:] != target.shape[1:]:
            cache = cache.transpose(1, 2).flatten(2).unflatten(2, target.shape[1:])
        _load(cache, block_tables, seq_lens, seq_offset, is_seq_lens_cumsum, target)


@reference("npu_gather_pa_kv_cache_functional", checked=True)
def gather_pa_kv_cache_functional(
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    key: Tensor,
    value: Tensor,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Return copies of `key` and `value` with what was read out of the caches."""
    results = key.clone(), value.clone()
    gather_pa_kv_cache(key_cache, value_cache, block_tables, seq_lens, *results, **options)
    return results


def _load(
    cache: Tensor, tables: Tensor, lengths: Tensor, starts: Tensor | None, cumulative: bool, target: Tensor
) -> None:
    for number, (first, last) in enumerate(_sequences(lengths, cumulative)):
        start = 0 if starts is None else int(starts[number])
        start = start // cache.shape[1] * cache.shape[1]  # whole blocks are left out
        target[first:last] = read_blocks(cache, tables[number], last - first, start)


def _sequences(lengths: Tensor, cumulative: bool) -> list[tuple[int, int]]:
    values = lengths.tolist()
    if not cumulative:
        values = [0, *torch.tensor(values).cumsum(0).tolist()]
    return list(itertools.pairwise(values))


@reference("atb::npu_paged_cache_load")
def paged_cache_load(
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    *,
    seq_starts: Tensor | None = None,
    cumsum: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the keys and values of sequences one behind another, read out of caches in blocks."""
    count = _sequences(context_lens, cumsum)[-1][1]
    key, value = (cache.new_zeros(count, *cache.shape[2:]) for cache in (key_cache, value_cache))
    return paged_cache_load_out(
        key_cache, value_cache, block_table, context_lens, seq_starts=seq_starts, cumsum=cumsum, key=key, value=value
    )


@reference("atb::npu_paged_cache_load.out")
def paged_cache_load_out(
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    *,
    seq_starts: Tensor | None = None,
    cumsum: bool = False,
    key: Tensor,
    value: Tensor,
) -> tuple[Tensor, Tensor]:
    """Write what `paged_cache_load` returns into `key` and `value`."""
    for cache, target in ((key_cache, key), (value_cache, value)):
        _load(cache, block_table, context_lens, seq_starts, cumsum, target)
    return key, value


@reference("npu_rope_quant_kvcache", checked=True)
def rope_quant_kvcache(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    indices: Tensor,
    scale_k: Tensor,
    scale_v: Tensor,
    size_splits: list[int],
    *,
    offset_k: Tensor | None = None,
    offset_v: Tensor | None = None,
    quant_mode: int = 0,
    input_layout: str = "BSND",
    kv_output: bool = False,
    cache_mode: str = "contiguous",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rotate queries and keys, quantise keys and values, and write them into caches.

    Args:
        x: `[batch, tokens, query + key + value]`, or `[tokens, ..]`.
        cos: `[batch, tokens, 1, size]`, or `[tokens, ..]`.
        sin: the same.
        k_cache: `[batch, length, heads, size]` of int8, or `[blocks, block size, heads, size]` for `page`.
        v_cache: the same.
        indices: first position of each of the batch, or slot of each token.
        scale_k: by which keys are divided.
        scale_v: by which values are divided.
        size_splits: widths of queries, keys and values.
        offset_k: added to keys.
        offset_v: added to values.
        quant_mode: 0, static.
        input_layout: BSND.
        kv_output: whether to return rotated keys and values too.
        cache_mode: `contiguous` or `page`.
    """
    if cache_mode not in ("contiguous", "page"):
        raise RuntimeError(f"npu_rope_quant_kvcache: cache_mode must be 'contiguous' or 'page', got {cache_mode!r}")
    if quant_mode != 0 or input_layout != "BSND":
        raise RuntimeError("npu_rope_quant_kvcache: quant_mode must be 0 and input_layout 'BSND'")
    size = k_cache.shape[3]
    query, key, value = (part.unflatten(-1, (-1, size)) for part in x.split(list(size_splits), -1))
    cos, sin = (
        factor.reshape(*x.shape[:-1], 1, size) if factor.numel() == x.shape[:-1].numel() * size else factor
        for factor in (cos, sin)
    )
    query, key = rotate_halves(query, cos, sin), rotate_halves(key, cos, sin)
    for cache, rows, scale, offset in ((k_cache, key, scale_k, offset_k), (v_cache, value, scale_v, offset_v)):
        scaled = rows.float() / scale.float() + (0 if offset is None else offset.float())
        codes = encode(scaled, INT8).to(cache.dtype)
        if cache_mode == "page":
            write_blocks(cache, codes.reshape(-1, *cache.shape[2:]), indices)
        else:
            whole = codes if codes.dim() == 4 else codes.unsqueeze(1)
            for batch, first in enumerate(indices.tolist()):
                cache[batch, first : first + whole.shape[1]] = whole[batch]
    kinds = [query.to(cos.dtype)]
    for part in (key, value):
        kinds.append(part.to(cos.dtype) if kv_output else cos.new_zeros(0))
    return kinds[0], kinds[1], kinds[2], k_cache, v_cache


@reference("npu_dequant_rope_quant_kvcache", checked=True)
def dequant_rope_quant_kvcache(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    indices: Tensor,
    scale_k: Tensor,
    scale_v: Tensor,
    size_splits: list[int],
    *,
    weight_scale: Tensor | None = None,
    activation_scale: Tensor | None = None,
    bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Scale int32 sums of a product by columns and rows, then do `rope_quant_kvcache`."""
    whole = x if bias is None or bias.dtype != torch.int32 else x + bias
    values = whole.float() if weight_scale is None else whole.float() * weight_scale.float()
    if activation_scale is not None:
        values = values * activation_scale.float().reshape(*x.shape[:-1], 1)
    if bias is not None and bias.dtype != torch.int32:
        values = values + bias.float()
    return rope_quant_kvcache(
        values.to(cos.dtype), cos, sin, k_cache, v_cache, indices, scale_k, scale_v, size_splits, **options
    )


@reference("npu_advance_step_flashattn")
def advance_step_flashattn(
    input_tokens: Tensor,
    sampled_token_ids: Tensor,
    input_positions: Tensor,
    seq_lens: Tensor,
    slot_mapping: Tensor,
    block_tables: Tensor,
    num_seqs: int,
    num_queries: int,
    block_size: int,
    *,
    spec_token: Tensor | None = None,
    accepted_num: Tensor | None = None,
) -> None:
    """Move a batch of sequences one token on, in place: tokens, positions, lengths and slots of the first queries.

    With tokens of speculative decoding each sequence moves on by those that were accepted and one.
    """
    if num_seqs < num_queries or num_queries < 1:
        raise RuntimeError(f"npu_advance_step_flashattn: num_seqs {num_seqs} must be num_queries {num_queries} or more")
    if spec_token is None or accepted_num is None:
        rows = slice(0, num_queries)
        input_tokens[rows] = sampled_token_ids.flatten()[:num_queries].to(input_tokens.dtype)
        lengths = seq_lens[rows] + 1
        positions, owners = lengths - 1, torch.arange(num_queries)
    else:
        extra = spec_token.shape[1]
        owners = torch.arange(num_queries).repeat_interleave(extra + 1)
        rows = slice(0, num_queries * (extra + 1))
        accepted = accepted_num[:num_queries].long()
        last = sampled_token_ids[torch.arange(num_queries), accepted]
        tokens = torch.cat([last.unsqueeze(1), spec_token[:num_queries].to(last.dtype)], 1)
        input_tokens[rows] = tokens.flatten().to(input_tokens.dtype)
        lengths = seq_lens[rows] + (accepted + 1).repeat_interleave(extra + 1).to(seq_lens.dtype)
        positions = lengths - 1
    seq_lens[rows] = lengths
    input_positions[rows] = positions.to(input_positions.dtype)
    blocks = block_tables[owners, positions.long() // block_size]
    slot_mapping[rows] = (blocks * block_size + positions % block_size).to(slot_mapping.dtype)
