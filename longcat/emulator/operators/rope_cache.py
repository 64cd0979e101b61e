"""RMSNorm and rotary embedding of new keys, written into a cache: for latent attention and for heads with queries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.operators.norm import rms_norm
from longcat.emulator.operators.rotary import rotate_halves
from longcat.emulator.reference import check, reference

_MODES = ("Norm", "PA", "PA_BNSD", "PA_NZ", "PA_BLK_BNSD", "PA_BLK_NZ")


def rms(x: Tensor, gamma: Tensor, epsilon: float) -> Tensor:
    """Return the RMSNorm of the last dimension in float32."""
    return rms_norm(x.float(), gamma, epsilon)[0]


def rotated_pairs(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Reorder neighbouring pairs into halves and rotate them, in float32."""
    halves = x.float().unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    return rotate_halves(halves, cosine, sine)


def quantised(x: Tensor, scale: Tensor | None, offset: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return `x * scale + offset` rounded to int8 if there is a scale, else x in a type."""
    if scale is None:
        return x.to(dtype)
    x = x * scale.float()
    x = x if offset is None else x + offset.float()
    return x.round().clamp(-128, 127).to(torch.int8)


def write_pages(cache: Tensor, tokens: Tensor, places: Tensor, blocked: bool, apart: bool) -> None:
    """Write tokens `[batch, tokens, width]` into pages `[pages, size, 1, width]` in place.

    Args:
        cache: contiguous; where `apart`, its bytes lie as `[pages, width / n, size, n]`, n being 32 bytes.
        tokens: of the cache's type.
        places: where each token goes, counted over all pages, or where `blocked` each page's first; negative: nowhere.
        blocked: see places.
        apart: see cache.
    """
    size, width = cache.shape[1], cache.shape[2] * cache.shape[3]
    if blocked:
        pages = places.view(len(tokens), -1).repeat_interleave(size, 1)[:, : tokens.shape[1]]
        inside = torch.arange(tokens.shape[1]) % size
        places = torch.where(pages < 0, -1, pages // size * size + inside)
    places = places.reshape(-1).long()
    rows, valid = tokens.reshape(-1, width), places >= 0
    rows, places = rows[valid], places[valid]
    if apart:
        n = 32 // cache.element_size()
        view = cache.view(cache.shape[0], width // n, size, n)
        view[places // size, :, places % size] = rows.view(-1, width // n, n)
    else:
        cache.view(-1, width)[places] = rows


def _check(kv: Tensor, gamma: Tensor, cosine: Tensor, v: Tensor | None, cache_mode: str) -> None:
    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_kv_rmsnorm_rope_cache", reason)

    need(kv.dim() == 4, "4D tensor expected for input kv")
    need(gamma.dim() == 1, "1D tensor expected for input gamma")
    need(cosine.dim() == 4, "4D tensor expected for input cos")
    need(v is None or v.dtype == kv.dtype, "v MUST have same data type as kv!")
    need(v is None or (v.dim() == 4 and v.shape[:3] == kv.shape[:3]), "v MUST have same token shape as kv!")
    need(cache_mode in _MODES, f"cache_mode must be one of {', '.join(_MODES)}, got {cache_mode}")


def _kv_rmsnorm_rope_cache(
    kv: Tensor,
    gamma: Tensor,
    cosine: Tensor,
    sine: Tensor,
    index: Tensor,
    k_cache: Tensor,
    ckv_cache: Tensor,
    *,
    k_rope_scale: Tensor | None = None,
    c_kv_scale: Tensor | None = None,
    k_rope_offset: Tensor | None = None,
    c_kv_offset: Tensor | None = None,
    v: Tensor | None = None,
    epsilon: float = 1e-5,
    cache_mode: str = "Norm",
    **others: Any,
) -> tuple[Tensor, Tensor]:
    """Split `[batch, 1, tokens, width]` into a part that is normed and one that is rotated, and write both in place.

    With `v` all of kv is normed, its first part then rotated, and v written beside it.

    Returns:
        The rotated and the other tokens, before they are quantised.
    """
    _check(kv, gamma, cosine, v, cache_mode)
    if v is None:
        normed, rotary = kv.split([gamma.numel(), kv.shape[-1] - gamma.numel()], -1)
        keys, values = rotated_pairs(rotary, cosine, sine), rms(normed, gamma, epsilon)
    else:
        normed = rms(kv, gamma, epsilon)
        size = cosine.shape[-1]
        keys = torch.cat((rotated_pairs(normed[..., :size], cosine, sine), normed[..., size:]), -1)
        values = v.float()
    for cache, tokens, scale, offset in (
        (k_cache, keys, k_rope_scale, k_rope_offset), (ckv_cache, values, c_kv_scale, c_kv_offset)
    ):  # fmt: skip
        stored = quantised(tokens, scale, offset, cache.dtype)[:, 0]
        if cache_mode == "Norm":
            for row, places in enumerate(index):
                valid = places >= 0
                cache[row, 0, places[valid].long()] = stored[row, valid]
        else:
            write_pages(cache, stored, index, "BLK" in cache_mode, cache_mode.endswith("NZ"))
    return keys.to(kv.dtype), values.to(kv.dtype)


@reference("npu_kv_rmsnorm_rope_cache")
def kv_rmsnorm_rope_cache(
    kv: Tensor, gamma: Tensor, cosine: Tensor, sine: Tensor, index: Tensor, k_cache: Tensor, ckv_cache: Tensor,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the caches, changed in place, and the tokens."""
    tokens = _kv_rmsnorm_rope_cache(kv, gamma, cosine, sine, index, k_cache, ckv_cache, **options)
    return k_cache, ckv_cache, *tokens


@reference("npu_kv_rmsnorm_rope_cache_v2")
def kv_rmsnorm_rope_cache_v2(*arguments: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Change the caches and return the tokens."""
    return _kv_rmsnorm_rope_cache(*arguments, **options)


@reference("npu_kv_rmsnorm_rope_cache_v2_functional")
def kv_rmsnorm_rope_cache_functional(
    kv: Tensor, gamma: Tensor, cosine: Tensor, sine: Tensor, index: Tensor, k_cache: Tensor, ckv_cache: Tensor,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the tokens, and changed copies of the caches."""
    caches = k_cache.clone(), ckv_cache.clone()
    return *_kv_rmsnorm_rope_cache(kv, gamma, cosine, sine, index, *caches, **options), *caches


def _qkv_rms_norm_rope_cache(
    qkv: Tensor,
    q_gamma: Tensor,
    k_gamma: Tensor,
    cosine: Tensor,
    sine: Tensor,
    index: Tensor,
    q_out: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    qkv_size: list[int],
    head_nums: list[int],
    *,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    k_offset: Tensor | None = None,
    v_offset: Tensor | None = None,
    epsilon: float = 1e-6,
    cache_mode: str = "PA_NZ",
    is_output_qkv: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Norm and rotate queries and keys of `[tokens, width]`; write queries, and keys and values to pages, in place.

    Returns:
        Queries, keys and values before they are quantised, or scalars if they are not wanted.
    """
    check(qkv.dim() == 2, "npu_qkv_rms_norm_rope_cache", "2D tensor expected for input qkv")
    check(cache_mode == "PA_NZ", "npu_qkv_rms_norm_rope_cache", f"cache_mode must be PA_NZ, got {cache_mode}")
    batch, tokens, _, size = qkv_size
    q, k, v = qkv.float().split([heads * size for heads in head_nums], -1)
    rotation = [t.float().view(batch, -1, t.shape[1] // size, size) for t in (cosine, sine)]

    def turned(x: Tensor, gamma: Tensor) -> Tensor:
        return rotate_halves(rms(x.view(batch, tokens, -1, size), gamma, epsilon), *rotation).flatten(2)

    q, k = turned(q, q_gamma).flatten(0, 1), turned(k, k_gamma).flatten(0, 1)
    q_out.copy_(q.view(q_out.shape))
    for cache, rows, scale, offset in ((k_cache, k, k_scale, k_offset), (v_cache, v, v_scale, v_offset)):
        inverse = None if scale is None else 1 / scale.float().flatten()
        stored = quantised(rows, inverse, None if offset is None else offset.flatten(), cache.dtype)
        _write_by_width(cache, stored, index)
    if not is_output_qkv:
        return qkv.new_zeros(()), qkv.new_zeros(()), qkv.new_zeros(())
    return q.to(qkv.dtype), k.to(qkv.dtype), v.to(qkv.dtype)


def _write_by_width(cache: Tensor, rows: Tensor, index: Tensor) -> None:
    """Write rows `[tokens, width]` into pages `[pages, width / n, size, n]` in place."""
    size, n = cache.shape[2:]
    places = index.reshape(-1).long()
    valid = places >= 0
    places, rows = places[valid], rows[valid]
    cache[places // size, :, places % size] = rows.view(len(rows), -1, n)


@reference("npu_qkv_rms_norm_rope_cache")
def qkv_rms_norm_rope_cache(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Change queries and caches in place."""
    return _qkv_rms_norm_rope_cache(*arguments, **options)


@reference("npu_qkv_rms_norm_rope_cache_functional")
def qkv_rms_norm_rope_cache_functional(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    """Return the tokens, and changed copies of queries and caches."""
    given = list(arguments)
    copies = [tensor.clone() for tensor in given[6:9]]
    given[6:9] = copies
    return *_qkv_rms_norm_rope_cache(*given, **options), *copies
