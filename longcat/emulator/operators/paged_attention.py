"""Attention of the ATB library: over packed sequences, and over keys and values that lie in caches of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.operators.kv_cache import read_blocks
from longcat.emulator.operators.quantization import scale_of
from longcat.emulator.reference import reference

_CAUSAL, _ALIBI, _ALIBI_ROOT = 3, 4, 5
"""Kinds of compressed masks, of which only the kind counts: causal, and causal with a linear or square root bias."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute attention of one sequence in float32.

    Args:
        query: `[tokens, heads, size]`.
        key: `[keys, key heads, size]`.
        value: `[keys, key heads, value size]`.
        scale: of the scores.
        bias: added to them, `[heads or 1, tokens, keys]`.

    Returns:
        the result `[tokens, heads, value size]` and the logarithm of the sum of the exponentials `[heads, tokens]`.
    """
    groups = query.shape[1] // key.shape[1]
    keys, values = (part.float().repeat_interleave(groups, 1).transpose(0, 1) for part in (key, value))
    scores = query.float().transpose(0, 1) @ keys.mT * scale
    scores = scores if bias is None else scores + bias.float()
    return (scores.softmax(-1) @ values).transpose(0, 1), scores.logsumexp(-1)


def _heads(rows: Tensor, heads: int) -> Tensor:
    """Return rows of `[.., width]` or `[.., heads, size]` as the latter."""
    return rows if rows.dim() >= 3 and rows.shape[-2] == heads else rows.unflatten(-1, (heads, -1))


def _lengths(lengths: Tensor | Sequence[int]) -> list[int]:
    return [int(length) for length in (lengths.flatten().tolist() if isinstance(lengths, Tensor) else lengths)]


def _causal(tokens: int, keys: int) -> Tensor:
    """Return the bias by which each of the last `tokens` of `keys` sees itself and those before."""
    return torch.full((1, tokens, keys), -torch.inf).triu(keys - tokens + 1)


def _compressed(kind: int, slopes: Tensor | None, tokens: int, keys: int) -> Tensor:
    bias = _causal(tokens, keys)
    if kind == _CAUSAL:
        return bias
    if slopes is None:
        raise NotImplementedError("compressed masks with a bias of each head are not emulated: pass slopes")
    distance = (torch.arange(keys - tokens, keys).unsqueeze(1) - torch.arange(keys)).clamp(min=0).float()
    distance = distance.sqrt() if kind == _ALIBI_ROOT else distance
    return bias + slopes.float().reshape(-1, 1, 1) * distance


def _full(mask: Tensor, number: int, tokens: int, keys: int, last_rows: bool = False) -> Tensor:
    """Return the part of a written-out mask that belongs to one sequence, `[heads or 1, tokens, keys]`.

    A mask of bfloat16 whose values are not negative says 1 for what is hidden; others are added.
    """
    own = mask
    if mask.dim() == 4:
        own = mask[number if mask.shape[0] > 1 else 0]
    elif mask.dim() == 2:
        own = mask.unsqueeze(0)
    elif mask.shape[0] > number and mask.shape[0] > 1 and mask.dim() == 3:
        own = mask
    rows = slice(keys - tokens, keys) if last_rows and own.shape[1] >= keys else slice(0, tokens)
    part = own[:, rows, :keys].float()
    hides = mask.dtype == torch.bfloat16 and bool((part >= 0).all()) and bool(((part == 0) | (part == 1)).all())
    return torch.where(part > 0, -torch.inf, 0.0) if hides else part


def _packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor | Sequence[int],
    scale: float,
    heads: int,
    key_heads: int,
    out: Tensor,
    bias: Any = None,
) -> None:
    """Compute attention of packed sequences into `out`; `bias` is a function of number, tokens and keys."""
    query, key, value = _heads(query, heads), _heads(key, key_heads or heads), _heads(value, key_heads or heads)
    start = 0
    for number, length in enumerate(_lengths(lengths)):
        part = slice(start, start + length)
        own = None if bias is None else bias(number, length, length)
        result = attend(query[part], key[part], value[part], scale, own)[0]
        out[part] = result.reshape(out[part].shape).to(out.dtype)
        start += length


@reference("atb::_npu_flash_attention")
def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    seq_len: Tensor,
    scale_value: float,
    num_heads: int,
    num_kv_heads: int,
    out: Tensor,
) -> None:
    """Compute attention of packed sequences `[tokens, heads, size]` with a written-out mask."""

    def bias(number: int, tokens: int, keys: int) -> Tensor:
        several = mask.dim() == 3 and mask.shape[0] > 1
        return _full(mask[number] if several else mask, number, tokens, keys)

    _packed(query, key, value, seq_len, scale_value, num_heads, num_kv_heads, out, bias)


@reference("atb::_npu_flash_attention_v3")
def flash_attention_v3(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    seq_len: Tensor,
    scale_value: float,
    num_heads: int,
    num_kv_heads: int,
    mask_type: int | None = 3,
    *,
    out: Tensor,
) -> None:
    """Compute causal attention of packed sequences; the mask is a compressed one (`mask_type` 3) or written out."""

    def bias(number: int, tokens: int, keys: int) -> Tensor:
        return _causal(tokens, keys) if mask_type == _CAUSAL else _full(mask, number, tokens, keys)

    _packed(query, key, value, seq_len, scale_value, num_heads, num_kv_heads, out, bias)


@reference("atb::_npu_flash_attention_unpad")
def flash_attention_unpad(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seq_len: Tensor,
    scale_value: float,
    num_heads: int,
    num_kv_heads: int,
    out: Tensor,
) -> None:
    """Compute attention of packed sequences without a mask."""
    _packed(query, key, value, seq_len, scale_value, num_heads, num_kv_heads, out)


@reference("atb::_npu_flash_attention_unpad_v2")
def flash_attention_unpad_v2(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seq_len: Tensor,
    scale_value: float,
    num_heads: int,
    num_kv_heads: int,
    kernel_type: int | None = 0,
    *,
    out: Tensor,
) -> None:
    """Compute attention of packed sequences without a mask; float32 is used for every `kernel_type`."""
    _packed(query, key, value, seq_len, scale_value, num_heads, num_kv_heads, out)


@reference("atb::_npu_flash_attention_v2.out")
def flash_attention_v2(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seq_len: list[int],
    *,
    mask: Tensor | None = None,
    slopes: Tensor | None = None,
    kernel_type: int = 0,
    mask_type: int = 2,
    scale_value: float = 1.0,
    num_heads: int = 0,
    num_kv_heads: int = 0,
    out: Tensor,
) -> Tensor:
    """Compute attention of packed sequences, with a mask of a kind.

    Args:
        query: `[tokens, heads, size]` or `[tokens, width]`.
        key: the same.
        value: the same.
        seq_len: lengths.
        mask: written out for kinds 1 and 2.
        slopes: of each head for kinds 4 and 5: what is added to the score is slope times distance (or its root).
        kernel_type: not used: float32 is.
        mask_type: 0 none, 1 hides, 2 adds, 3 causal, 4 causal with slopes, 5 with slopes of the root.
        scale_value: of the scores.
        num_heads: of the queries.
        num_kv_heads: of the keys; 0 for as many.
        out: overwritten.
    """
    _check_heads(num_heads, num_kv_heads, "_npu_flash_attention_v2")
    if mask_type in (1, 2) and mask is None:
        raise RuntimeError(f"_npu_flash_attention_v2: mask_type {mask_type} needs a mask")

    def bias(number: int, tokens: int, keys: int) -> Tensor | None:
        if mask_type == 0:
            return None
        if mask_type in (1, 2):
            assert mask is not None
            return _full(mask, number, tokens, keys)
        if mask_type in (_CAUSAL, _ALIBI, _ALIBI_ROOT):
            return _compressed(mask_type, slopes, tokens, keys)
        raise NotImplementedError(f"_npu_flash_attention_v2: mask_type {mask_type} is not emulated")

    _packed(query, key, value, seq_len, scale_value, num_heads, num_kv_heads, out, bias)
    return out


def _check_heads(heads: int, key_heads: int, name: str) -> None:
    if heads <= 0 or (key_heads and heads % key_heads):
        raise RuntimeError(f"{name}: num_heads must be positive and divisible by num_kv_heads: {heads}, {key_heads}")


def _paged(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    table: Tensor,
    lengths: list[int],
    tokens: list[int],
    scale: float,
    out: Tensor,
    bias: Any = None,
    convert: Any = None,
) -> Tensor:
    """Compute attention of sequences whose keys are in caches into `out`; return the logarithms of the sums.

    Args:
        query: `[tokens, heads, size]`.
        key_cache: `[blocks, block size, key heads, size]`.
        value_cache: the same.
        table: block numbers of each sequence.
        lengths: keys of each.
        tokens: queries of each, its last ones.
        scale: of the scores.
        out: overwritten.
        bias: function of number, first query, tokens and keys.
        convert: function of keys, values that scales them back.
    """
    sums = torch.zeros(query.shape[0], query.shape[1], 1)
    start = 0
    for number, (length, count) in enumerate(zip(lengths, tokens, strict=True)):
        part = slice(start, start + count)
        if length:
            keys, values = (read_blocks(cache, table[number], length) for cache in (key_cache, value_cache))
            if convert is not None:
                keys, values = convert(keys, values)
            own = None if bias is None else bias(number, start, count, length)
            result, total = attend(query[part], keys, values, scale, own)
            out[part] = result.reshape(out[part].shape).to(out.dtype)
            sums[part] = total.T.unsqueeze(-1)
        start += count
    return sums


@reference("atb::_npu_paged_attention")
def paged_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    block_table: Tensor,
    context_lens: Tensor,
    out: Tensor,
    *,
    workspace: Tensor | None = None,
) -> None:
    """Compute attention of one query of each sequence, `[sequences, heads, size]`, over its cached keys."""
    lengths = _lengths(context_lens)
    _paged(query, key_cache, value_cache, block_table, lengths, [1] * len(lengths), scale_value, out)


@reference("atb::_npu_paged_attention_get_workspace")
def paged_attention_workspace(*arguments: Any, **options: Any) -> Tensor:
    """Return the scratch memory that the emulated kernel needs: none."""
    return torch.zeros(1, dtype=torch.uint8)


reference(
    "atb::_npu_paged_attention_v2_get_workspace",
    "atb::_npu_multi_head_latent_attention_get_workspace.lse",
)(paged_attention_workspace)


@reference("atb::_npu_paged_attention_v2.out")
def paged_attention_v2(
    query: Tensor,
    key_cache: Tensor,
    block_table: Tensor,
    context_lens: list[int],
    *,
    value_cache: Tensor | None = None,
    mask: Tensor | None = None,
    num_kv_heads: int = 0,
    num_heads: int = 0,
    scale_value: float = 1.0,
    mask_type: int = 0,
    workspace: Tensor | None = None,
    out: Tensor,
) -> Tensor:
    """Compute attention of one query of each sequence over its cached keys, with a bias for `mask_type` 2.

    Without `value_cache` values are the first part of the keys, as wide as `out`.
    """
    _check_heads(num_heads, num_kv_heads, "_npu_paged_attention_v2")
    if mask_type not in (0, 2) or (mask_type == 2 and mask is None):
        raise RuntimeError("_npu_paged_attention_v2: mask_type must be 0, or 2 with a mask")

    def bias(number: int, start: int, tokens: int, keys: int) -> Tensor | None:
        if mask is None or mask_type == 0:
            return None
        return (mask[number] if mask.dim() == 4 else mask)[..., :keys]

    values = key_cache[..., : out.shape[-1]] if value_cache is None else value_cache
    lengths = _lengths(context_lens)
    _paged(query, key_cache, values, block_table, lengths, [1] * len(lengths), scale_value, out, bias)
    return out


@reference("atb::_npu_paged_attention_mla")
def paged_attention_mla(
    query: Tensor,
    key_cache: Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    block_table: Tensor,
    context_lens: Tensor,
    mla_vheadsize: int,
    out: Tensor,
) -> None:
    """Compute attention over latent keys, of which the first `mla_vheadsize` numbers are the values."""
    lengths = _lengths(context_lens)
    values = key_cache[..., :mla_vheadsize]
    _paged(query, key_cache, values, block_table, lengths, [1] * len(lengths), scale_value, out)


@reference("atb::_npu_paged_attention_quant")
def paged_attention_quant(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    block_table: Tensor,
    context_lens: Tensor,
    quant_type: int,
    outdata_type: int,
    k_descale: Tensor,
    v_descale: Tensor,
    out: Tensor,
) -> None:
    """Compute attention over cached keys and values of int8.

    With queries of int8 each head has a scale for its scores and one for its result; with float ones keys and values
    are scaled back, each number of each head by its own.
    """
    lengths = _lengths(context_lens)
    if query.dtype == torch.int8:
        scales = scale_of(k_descale).reshape(1, -1, 1)
        result = torch.zeros(out.shape)
        _paged(
            query.float() * scales,
            key_cache,
            value_cache,
            block_table,
            lengths,
            [1] * len(lengths),
            scale_value,
            result,
        )
        out.copy_(result * scale_of(v_descale).reshape(1, -1, 1))
        return

    def convert(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        back = keys.float() * scale_of(k_descale).reshape(1, num_kv_heads, -1)
        return back, values.float() * scale_of(v_descale).reshape(1, num_kv_heads, -1)

    _paged(query, key_cache, value_cache, block_table, lengths, [1] * len(lengths), scale_value, out, convert=convert)


@reference("atb::_npu_paged_attention_splitfuse")
def paged_attention_splitfuse(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    mask: Tensor,
    seq_len: Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    out: Tensor,
) -> None:
    """Compute attention of the last `seq_len` tokens of each sequence over its `context_lens` cached keys.

    `mask` has a row for each query, or is compressed: then attention is causal.
    """
    paged_attention_splitfuse_v2(
        query, key_cache, value_cache, block_table, context_lens, mask, seq_len, num_kv_heads, num_heads, scale_value,
        out=out,
    )  # fmt: skip


@reference("atb::_npu_paged_attention_splitfuse_v2")
def paged_attention_splitfuse_v2(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    mask: Tensor,
    seq_len: Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    mask_type: int | None = 5,
    *,
    out: Tensor,
) -> None:
    """Compute attention of the last `seq_len` tokens of each sequence; see `paged_attention_splitfuse`."""
    lengths = _lengths(context_lens)

    def bias(number: int, start: int, tokens: int, keys: int) -> Tensor:
        rows = mask.reshape(-1, mask.shape[-1]) if mask.dim() != 2 else mask
        if rows.shape[-1] < max(lengths) or rows.shape[0] < query.shape[0]:
            return _causal(tokens, keys)
        return rows[start : start + tokens, :keys].unsqueeze(0)

    _paged(
        _heads(query, num_heads),
        key_cache,
        value_cache,
        block_table,
        lengths,
        _lengths(seq_len),
        scale_value,
        out,
        bias,
    )


@reference("atb::_npu_flash_attention_qlens")
def flash_attention_qlens(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    mask: Tensor,
    seq_len: Tensor,
    context_lens: Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    out: Tensor,
) -> None:
    """Compute causal attention of the last `seq_len` tokens of each sequence over its cached keys."""
    _prefix(
        query, key_cache, value_cache, block_table, seq_len, context_lens, num_kv_heads, num_heads, scale_value, out,
        lambda number, start, tokens, keys: _causal(tokens, keys),
    )  # fmt: skip


def _prefix(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    table: Tensor,
    tokens: Tensor | Sequence[int],
    lengths: Tensor | Sequence[int],
    key_heads: int,
    heads: int,
    scale: float,
    out: Tensor,
    bias: Any,
) -> None:
    keys, values = (_heads(cache, key_heads) if cache.dim() == 3 else cache for cache in (key_cache, value_cache))
    _paged(_heads(query, heads), keys, values, table, _lengths(lengths), _lengths(tokens), scale, out, bias)


@reference("atb::_npu_flash_attention_prefix_v2.out")
def flash_attention_prefix_v2(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    mask: Tensor,
    seq_len: list[int],
    context_lens: list[int],
    *,
    slopes: Tensor | None = None,
    kernel_type: int = 1,
    mask_type: int = 3,
    num_kv_heads: int = 0,
    num_heads: int = 0,
    scale_value: float = 1.0,
    out: Tensor,
) -> Tensor:
    """Compute attention of the last `seq_len` tokens of each sequence, with a compressed mask of a kind (3, 4 or 5)."""
    _check_heads(num_heads, num_kv_heads, "_npu_flash_attention_prefix_v2")
    if mask_type not in (_CAUSAL, _ALIBI, _ALIBI_ROOT):
        raise RuntimeError(f"_npu_flash_attention_prefix_v2: mask_type must be 3, 4 or 5, got {mask_type}")
    _prefix(
        query, key_cache, value_cache, block_table, seq_len, context_lens, num_kv_heads or num_heads, num_heads,
        scale_value, out, lambda number, start, tokens, keys: _compressed(mask_type, slopes, tokens, keys),
    )  # fmt: skip
    return out


@reference("atb::npu_self_attention_prefix_encoder")
def self_attention_prefix_encoder(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_tables: Tensor,
    seqlen: list[int],
    kv_seqlen: list[int],
    q_headnum: int,
    qk_scale: float,
    kv_headnum: int,
    **options: Any,
) -> Tensor:
    """Compute attention of the last `seqlen` tokens of each sequence over its cached keys."""
    output = torch.zeros_like(query)
    return self_attention_prefix_encoder_out(
        query, key, value, block_tables, seqlen, kv_seqlen, q_headnum, qk_scale, kv_headnum, **options, output=output
    )


@reference("atb::npu_self_attention_prefix_encoder.out")
def self_attention_prefix_encoder_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_tables: Tensor,
    seqlen: list[int],
    kv_seqlen: list[int],
    q_headnum: int,
    qk_scale: float,
    kv_headnum: int,
    *,
    mask: Tensor | None = None,
    slopes: Tensor | None = None,
    mask_type: str | None = None,
    output: Tensor,
) -> Tensor:
    """Write what `self_attention_prefix_encoder` returns into `output`; the mask is causal, with slopes if given."""
    kinds = {
        None: _CAUSAL, "mask_type_causal_mask": _CAUSAL, "mask_type_norm_compress": _CAUSAL,
        "mask_type_alibi_compress": _ALIBI, "mask_type_alibi_compress_sqrt": _ALIBI_ROOT,
    }  # fmt: skip
    if mask_type not in kinds:
        raise RuntimeError(f"npu_self_attention_prefix_encoder: mask_type {mask_type!r} is unknown")
    _prefix(
        query, key, value, block_tables, seqlen, kv_seqlen, kv_headnum, q_headnum, qk_scale, output,
        lambda number, start, tokens, keys: _compressed(kinds[mask_type], slopes, tokens, keys),
    )  # fmt: skip
    return output


@reference("atb::npu_multi_head_latent_attention")
def latent_attention(q_nope: Tensor, q_rope: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Compute attention over cached latents and rotary keys; see `latent_attention_lse_out`."""
    output = torch.zeros(q_nope.shape, dtype=q_rope.dtype)
    _latent(q_nope, q_rope, *arguments, **options, output=output)
    return output


@reference("atb::npu_multi_head_latent_attention.out")
def latent_attention_out(*arguments: Any, output: Tensor, **options: Any) -> Tensor:
    """Write what `latent_attention` returns into `output`."""
    _latent(*arguments, **options, output=output)
    return output


@reference("atb::npu_multi_head_latent_attention.lse")
def latent_attention_lse(
    q_nope: Tensor,
    q_rope: Tensor,
    ctkv: Tensor,
    k_rope: Tensor,
    block_tables: Tensor,
    context_lens: list[int],
    q_headnum: int,
    qk_scale: float,
    kv_headnum: int,
    return_lse: bool,
    *,
    workspace: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Compute attention over cached latents; return the logarithms of the sums `[tokens, heads, 1]` too."""
    output, lse = torch.zeros(q_nope.shape, dtype=q_rope.dtype), torch.zeros(*q_nope.shape[:2], 1, dtype=q_nope.dtype)
    positions = (q_nope, q_rope, ctkv, k_rope, block_tables, context_lens, q_headnum, qk_scale, kv_headnum)
    return latent_attention_lse_out(*positions, return_lse, output=output, lse=lse, **options)


@reference("atb::npu_multi_head_latent_attention.lse_out")
def latent_attention_lse_out(
    q_nope: Tensor,
    q_rope: Tensor,
    ctkv: Tensor,
    k_rope: Tensor,
    block_tables: Tensor,
    context_lens: list[int],
    q_headnum: int,
    qk_scale: float,
    kv_headnum: int,
    return_lse: bool,
    *,
    workspace: Tensor | None = None,
    output: Tensor,
    lse: Tensor,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Write what `latent_attention_lse` returns into `output` and `lse`."""
    positions = (q_nope, q_rope, ctkv, k_rope, block_tables, context_lens, q_headnum, qk_scale, kv_headnum)
    sums = _latent(*positions, **options, output=output)
    if return_lse:
        lse.copy_(sums)
    return output, lse


def _latent(
    q_nope: Tensor,
    q_rope: Tensor,
    ctkv: Tensor,
    k_rope: Tensor,
    block_tables: Tensor,
    context_lens: Tensor | list[int],
    q_headnum: int,
    qk_scale: float,
    kv_headnum: int,
    *,
    mask: Tensor | None = None,
    qseqlen: list[int] | None = None,
    qk_descale: Tensor | None = None,
    pv_descale: Tensor | None = None,
    mask_type: str | None = None,
    calc_type: str | None = None,
    cache_mode: str | None = None,
    output: Tensor,
) -> Tensor:
    """Compute attention over latents `[blocks, block size, 1, 512]` and rotary keys `[.., 64]` in caches.

    In the cache mode `int8_nzcache` caches are in FRACTAL_NZ, and latents and queries are int8 with a scale of each
    head for the scores and one for the result.
    """
    name = "npu_multi_head_latent_attention"
    if cache_mode not in (None, "krope_ctkv", "int8_nzcache", "nzcache"):
        raise RuntimeError(f"{name}: cache_mode must be 'krope_ctkv' or 'int8_nzcache', got {cache_mode!r}")
    if cache_mode in ("int8_nzcache", "nzcache"):
        ctkv, k_rope = (cache.transpose(1, 2).flatten(2).unflatten(2, (kv_headnum, -1)) for cache in (ctkv, k_rope))
    scaled = 1.0 if qk_descale is None else scale_of(qk_descale).reshape(1, -1, 1)
    query = torch.cat([q_nope.float() * scaled, q_rope.float()], -1)
    keys = torch.cat([ctkv.float(), k_rope.float()], -1)
    lengths = _lengths(context_lens)
    tokens = [1] * len(lengths) if qseqlen is None else _lengths(qseqlen)

    def bias(number: int, start: int, count: int, length: int) -> Tensor | None:
        if mask is not None and mask_type not in (None, "undefined"):
            rows = mask.reshape(-1, mask.shape[-1])
            if rows.shape[0] >= query.shape[0] and rows.shape[1] >= length:
                return rows[start : start + count, :length].unsqueeze(0)
        return _causal(count, length) if count > 1 and mask_type not in (None, "undefined") else None

    result = torch.zeros(output.shape)
    sums = _paged(query, keys, ctkv.float(), block_tables, lengths, tokens, qk_scale, result, bias)
    output.copy_(result if pv_descale is None else result * scale_of(pv_descale).reshape(1, -1, 1))
    return sums


@reference("atb::npu_ring_mla")
def ring_mla(
    q_nope: Tensor,
    q_rope: Tensor,
    k_nope: Tensor,
    k_rope: Tensor,
    value: Tensor,
    mask: Tensor,
    seqlen: Tensor,
    head_num: int,
    kv_head_num: int,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Compute attention over one part of the keys and merge it with what came before; see `ring_mla_out`."""
    output = torch.zeros(*q_nope.shape[:2], value.shape[-1], dtype=q_nope.dtype)
    sums = torch.zeros(q_nope.shape[1], q_nope.shape[0])
    return ring_mla_out(
        q_nope, q_rope, k_nope, k_rope, value, mask, seqlen, head_num, kv_head_num, **options, output=output,
        softmax_lse=sums,
    )  # fmt: skip


@reference("atb::npu_ring_mla.out")
def ring_mla_out(
    q_nope: Tensor,
    q_rope: Tensor,
    k_nope: Tensor,
    k_rope: Tensor,
    value: Tensor,
    mask: Tensor,
    seqlen: Tensor,
    head_num: int,
    kv_head_num: int,
    *,
    pre_out: Tensor | None = None,
    prev_lse: Tensor | None = None,
    qk_scale: float = 1.0,
    kernel_type: str | None = None,
    mask_type: str | None = None,
    input_layout: str | None = None,
    calc_type: str | None = None,
    output: Tensor,
    softmax_lse: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute attention of packed sequences over one part of their keys.

    Args:
        q_nope: `[tokens, heads, size]` without positions.
        q_rope: `[tokens, heads, rotary]`.
        k_nope: `[keys, key heads, size]`.
        k_rope: `[keys, key heads, rotary]`.
        value: `[keys, key heads, value size]`.
        mask: not read: a triangle, where `mask_type` asks for it.
        seqlen: lengths of queries and keys, `[batch]` or `[2, batch]`.
        head_num: heads of the queries.
        kv_head_num: heads of the keys.
        pre_out: result over earlier keys, unless `calc_type` is `calc_type_first_ring`.
        prev_lse: logarithm of its sums, `[heads, tokens]`.
        qk_scale: of the scores.
        kernel_type: not used: float32 is.
        mask_type: `mask_type_triu` (default) or `no_mask`.
        input_layout: `type_bsnd`.
        calc_type: see above.
        output: overwritten.
        softmax_lse: overwritten, `[heads, tokens]`.
    """
    first = calc_type == "calc_type_first_ring"
    if not first and (pre_out is None or prev_lse is None):
        raise RuntimeError("npu_ring_mla: pre_out and prev_lse are needed unless calc_type is 'calc_type_first_ring'")
    if mask_type not in (None, "mask_type_triu", "no_mask"):
        raise RuntimeError(f"npu_ring_mla: mask_type must be 'mask_type_triu' or 'no_mask', got {mask_type!r}")
    query, key = torch.cat([q_nope, q_rope], -1), torch.cat([k_nope, k_rope], -1)
    lengths = seqlen.reshape(-1, seqlen.shape[-1]).tolist()
    start = begin = 0
    for count, length in zip(lengths[0], lengths[-1], strict=True):
        rows, columns = slice(start, start + count), slice(begin, begin + length)
        if length:
            bias = None if mask_type == "no_mask" else _causal(count, length)
            result, sums = attend(query[rows], key[columns], value[columns], qk_scale, bias)
        else:
            result, sums = torch.zeros(output[rows].shape), torch.full((query.shape[1], count), -torch.inf)
        if not first:
            assert pre_out is not None and prev_lse is not None
            before = prev_lse[:, rows].float()
            whole = torch.logaddexp(before, sums)
            old, new = ((part - whole).exp().T.unsqueeze(-1) for part in (before, sums))
            result, sums = pre_out[rows].float() * old + result * new, whole
        output[rows] = result.to(output.dtype)
        softmax_lse[:, rows] = sums
        start, begin = start + count, begin + length
    return output, softmax_lse
