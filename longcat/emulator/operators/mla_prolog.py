"""What comes before latent attention when tokens are generated: projections, norms, rotation and the caches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.operators.rope_cache import rms, rotated_pairs, write_pages
from longcat.emulator.reference import check, reference

_QUANTISED = (
    "dequant_scale_x", "dequant_scale_w_dq", "dequant_scale_w_uq_qr", "dequant_scale_w_dkv_kr", "quant_scale_ckv",
    "quant_scale_ckr", "smooth_scales_cq", "k_nope_clip_alpha",
)  # fmt: skip
_MODES = ("PA_BSND", "PA_NZ", "PA_BLK_BSND", "PA_BLK_NZ", "BSND", "TND")


def _prolog(
    operator: str,
    token_x: Tensor,
    weight_dq: Tensor,
    weight_uq_qr: Tensor,
    weight_uk: Tensor,
    weight_dkv_kr: Tensor,
    rmsnorm_gamma_cq: Tensor,
    rmsnorm_gamma_ckv: Tensor,
    rope_sin: Tensor,
    rope_cos: Tensor,
    cache_index: Tensor | None,
    kv_cache: Tensor,
    kr_cache: Tensor,
    *,
    rmsnorm_epsilon_cq: float = 1e-5,
    rmsnorm_epsilon_ckv: float = 1e-5,
    cache_mode: str = "PA_BSND",
    qc_qr_scale: float = 1.0,
    kc_scale: float = 1.0,
    query_norm_flag: bool = False,
    **others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute queries in the latent space, their rotated part, and the normed latent of queries; write both caches.

    Args:
        operator: for messages.
        token_x: `[batch, tokens, width]` or `[tokens, width]`.
        weight_dq: down to the latent of queries, `[width, latent]`.
        weight_uq_qr: up to the heads' plain and rotated parts, `[latent, heads * (size + rotary)]`.
        weight_uk: of each head into the latent of keys, `[heads, size, key latent]`.
        weight_dkv_kr: down to the latent of keys and the rotated part, `[width, key latent + rotary]`.
        rmsnorm_gamma_cq: norm of the latent of queries.
        rmsnorm_gamma_ckv: norm of the latent of keys.
        rope_sin: sines, `[batch, tokens, rotary]` or `[tokens, rotary]`.
        rope_cos: cosines.
        cache_index: where tokens go, in pages.
        kv_cache: pages `[pages, size, 1, key latent]`, or tokens in cache_mode BSND and TND; in place.
        kr_cache: likewise, of the rotated part.
        rmsnorm_epsilon_cq: of that norm.
        rmsnorm_epsilon_ckv: likewise.
        cache_mode: see `_MODES`.
        qc_qr_scale: multiplies the latent of queries.
        kc_scale: multiplies the latent of keys.
        query_norm_flag: whether the third result is wanted.
        others: of quantised tensors.

    Raises:
        NotImplementedError: for quantised tensors.
        RuntimeError: for another cache mode or dtype.
    """
    if any(others.get(name) is not None for name in _QUANTISED) or token_x.dtype == torch.int8:
        raise NotImplementedError(f"{operator}: quantised tensors are not emulated")
    check(cache_mode in _MODES, operator, f"cache_mode must be one of {', '.join(_MODES)}, got {cache_mode}")
    check(token_x.dtype == torch.bfloat16, operator, f"token_x must be bfloat16, got {token_x.dtype}")
    check(token_x.dim() in (2, 3), operator, f"token_x must have 2 or 3 dimensions, got {token_x.dim()}")
    x, dtype = token_x.float(), token_x.dtype
    heads, size, latent = weight_uk.shape
    rotary = rope_sin.shape[-1]
    normed = (rms((x @ weight_dq.float()).to(dtype), rmsnorm_gamma_cq, rmsnorm_epsilon_cq)).to(dtype)
    up = (normed.float() @ weight_uq_qr.float() * qc_qr_scale).to(dtype).unflatten(-1, (heads, -1))
    plain, turned = up.split([size, rotary], -1)
    query = torch.einsum("...nd,ndc->...nc", plain.float(), weight_uk.float()).to(dtype)
    query_rope = rotated_pairs(turned, rope_cos.unsqueeze(-2), rope_sin.unsqueeze(-2)).to(dtype)
    down = (x @ weight_dkv_kr.float()).to(dtype)
    keys = (rms(down[..., :latent], rmsnorm_gamma_ckv, rmsnorm_epsilon_ckv) * kc_scale).to(dtype)
    key_rope = rotated_pairs(down[..., latent:], rope_cos, rope_sin).to(dtype)
    for cache, tokens in ((kv_cache, keys), (kr_cache, key_rope)):
        if cache_mode in ("BSND", "TND"):
            cache.copy_(tokens.view(cache.shape))
        else:
            check(cache_index is not None, operator, f"cache_mode {cache_mode} needs cache_index")
            assert cache_index is not None
            rows = tokens if tokens.dim() == 3 else tokens[None]
            write_pages(cache, rows.to(cache.dtype), cache_index, "BLK" in cache_mode, cache_mode.endswith("NZ"))
    return query, query_rope, normed if query_norm_flag else token_x.new_empty(0)


@reference("npu_mla_prolog")
def mla_prolog(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return queries, their rotated part, and both caches, changed in place."""
    query, query_rope, _ = _prolog("npu_mla_prolog", *arguments, **options)
    return query, query_rope, arguments[10], arguments[11]


@reference("npu_mla_prolog_v2")
def mla_prolog_v2(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    """Do the same; the last result is the scale of quantised queries, a 0 here."""
    return *mla_prolog(*arguments, **options), torch.zeros(1)


@reference("npu_mla_prolog_v3")
def mla_prolog_v3(*arguments: Any, cache_index: Tensor | None = None, **options: Any) -> tuple[Tensor, ...]:
    """Return queries, their rotated part and their normed latent if wanted; what is not wanted, and scales, are empty."""
    given = (*arguments[:-2], cache_index, *arguments[-2:])
    found = _prolog("npu_mla_prolog_v3", *given, **options)
    return found[0], found[1], torch.empty(0), found[2], torch.empty(0)


@reference("npu_mla_prolog_v3_functional")
def mla_prolog_v3_functional(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    """Return the same, and changed copies of both caches."""
    *rest, kv_cache, kr_cache = arguments
    caches = kv_cache.clone(), kr_cache.clone()
    return *mla_prolog_v3(*rest, *caches, **options), *caches
