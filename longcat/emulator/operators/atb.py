"""What else the ATB library computes: a product that is added, normalisation, quantisation, rotation and routing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.number_formats import INT8, encode, rounded
from longcat.emulator.operators.kv_cache import write_blocks, write_fractal_blocks
from longcat.emulator.operators.quantization import quantize_rows, scale_of
from longcat.emulator.operators.quantized_layers import rms_norm
from longcat.emulator.operators.quantized_matmul import operand, product
from longcat.emulator.operators.rotary import rotate_halves
from longcat.emulator.reference import reference


def _check(name: str, *tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.dim() > 8:
            raise RuntimeError(f"{name}: ATB tensor supports at most 8 dimensions, but got {tensor.dim()}")


@reference("atb::_npu_matmul_add_fp32")
def matmul_add_fp32(x: Tensor, weight: Tensor, total: Tensor) -> None:
    """Add the product of x transposed and weight to a float32 total: the gradient of a linear layer's weight."""
    total += (x.T.float() @ weight.float()).to(total.dtype)


@reference("atb::_npu_quantize_per_tensor")
def quantize_per_tensor(x: Tensor, scale: Tensor, zero_point: Tensor, y: Tensor) -> None:
    """Quantise to int8 with scales and offsets of x's shape, or of one element."""
    _check("_npu_quantize_per_tensor", x, scale, zero_point, y)
    values = rounded(x.float() / scale.float())
    y.copy_(encode(values + zero_point.float() if zero_point.numel() else values, INT8))


@reference("atb::_npu_quant_rms_norm")
def quant_rms_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, scale: Tensor, offset: Tensor, output: Tensor, eps: float = 1e-5
) -> None:
    """Normalise and quantise to int8: `y / scale + offset`."""
    normalised = rms_norm(x, gamma, beta, eps)[0]
    output.copy_(encode(normalised / scale.float() + offset.float(), INT8))


@reference("atb::_npu_rotary_embedding")
def rotary_embedding(
    positions: Tensor, query: Tensor, key: Tensor, head_size: int, cos_sin_cache: Tensor, is_neox_style: bool
) -> None:
    """Rotate queries and keys in place, by a table of cosines and sines `[positions, rotary]`.

    Pairs are halves of a head's first part (neox) or neighbours.
    """
    where = positions.flatten().long()
    table = cos_sin_cache[where]
    cos, sin = (half.unsqueeze(1).to(query.dtype) for half in table.chunk(2, -1))
    rotary = table.shape[-1]
    for tensor in (query, key):
        heads = tensor.reshape(where.numel(), -1, head_size)
        part = heads[..., :rotary]
        if is_neox_style:
            turned = rotate_halves(part, torch.cat([cos, cos], -1), torch.cat([sin, sin], -1))
        else:
            first, second = part[..., 0::2].float(), part[..., 1::2].float()
            turned = torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)
        result = torch.cat([turned.to(tensor.dtype), heads[..., rotary:]], -1)
        tensor.copy_(result.reshape(tensor.shape))


@reference("atb::_npu_group_topk")
def group_topk(scores: Tensor, k: int = 0, group_num: int = 1, n: int = 1) -> None:
    """Keep the k groups whose n best scores have the largest sums, and set the others to zero, in place."""
    scores.masked_fill_(~_best_groups(scores.float(), k, group_num, n), 0)


def _best_groups(scores: Tensor, k: int, groups: int, n: int) -> Tensor:
    split = scores.unflatten(-1, (groups, -1))
    sums = split.topk(n, -1).values.sum(-1)
    best = sums.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    kept = torch.zeros(sums.shape, dtype=torch.bool).scatter_(1, best, True)
    return kept.repeat_interleave(split.shape[-1], 1)


@reference("atb::npu_fused_add_topk_div")
def fused_add_topk_div(
    x: Tensor,
    add_num: Tensor,
    *,
    mapping_num: Tensor | None = None,
    mapping_table: Tensor | None = None,
    activation_type: str | None = None,
    group_num: int = 1,
    group_topk: int = 1,
    n: int = 1,
    k: int = 1,
    is_norm: bool = True,
    scale: float = 1.0,
    enable_expert_mapping: bool = False,
) -> tuple[Tensor, Tensor]:
    """Choose experts as DeepSeek-V3 does: sigmoid, bias, best groups, best experts, normalised scores.

    Args:
        x: `[tokens, experts]`.
        add_num: bias `[experts]`, for the choice only.
        mapping_num: how many copies each expert has, with `enable_expert_mapping`.
        mapping_table: numbers of the copies, `[experts, most copies]`. The device draws one, here it is the first.
        activation_type: `activation_sigmoid`.
        group_num: groups of experts.
        group_topk: groups that are kept.
        n: best experts of a group whose sum counts.
        k: experts of a token.
        is_norm: whether scores are divided by their sum.
        scale: of the scores.
        enable_expert_mapping: see above.
    """
    name = "npu_fused_add_topk_div"
    if activation_type not in (None, "activation_sigmoid"):
        raise RuntimeError(f"{name}: activation_type must be 'activation_sigmoid', got {activation_type!r}")
    if x.shape[1] % group_num or group_topk > group_num or k > x.shape[1]:
        raise RuntimeError(f"{name}: groups must be of equal size, and group_topk and k no more than there are")
    scores = x.float().sigmoid()
    choice = scores + add_num.float()
    kept = _best_groups(choice, group_topk, group_num, n)
    order = choice.masked_fill(~kept, -torch.inf).sort(dim=-1, descending=True, stable=True).indices[:, :k]
    weights = scores.gather(1, order)
    weights = (weights / weights.sum(-1, keepdim=True) if is_norm else weights) * scale
    if enable_expert_mapping:
        if mapping_num is None or mapping_table is None:
            raise RuntimeError(f"{name}: enable_expert_mapping needs mapping_num and mapping_table")
        order = mapping_table[order, 0].long()
    return weights, order.int()


@reference("atb::npu_fused_add_topk_div.out")
def fused_add_topk_div_out(
    x: Tensor, add_num: Tensor, *, y: Tensor, indices: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """Write what `fused_add_topk_div` returns into `y` and `indices`."""
    weights, order = fused_add_topk_div(x, add_num, **options)
    return y.copy_(weights), indices.copy_(order)


@reference("atb::npu_mla_preprocess")
def mla_preprocess(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute queries and cache entries of latent attention; see `mla_preprocess_out`."""
    x, kv_cache, kv_cache_rope = arguments[0], arguments[13], arguments[14]
    heads = arguments[12].shape[0]
    results = {
        "q_out0": torch.zeros(x.shape[0], heads, 512, dtype=kv_cache.dtype),
        "kv_cache_out0": kv_cache,
        "q_out1": torch.zeros(x.shape[0], heads, 64, dtype=x.dtype),
        "kv_cache_out1": kv_cache_rope,
    }
    return mla_preprocess_out(*arguments, **options, **results)


@reference("atb::npu_mla_preprocess.out")
def mla_preprocess_out(
    x: Tensor,
    gamma0: Tensor,
    beta0: Tensor,
    wdqkv: Tensor,
    descale0: Tensor,
    gamma1: Tensor,
    beta1: Tensor,
    wuq: Tensor,
    descale1: Tensor,
    gamma2: Tensor,
    cos: Tensor,
    sin: Tensor,
    wuk: Tensor,
    kv_cache: Tensor,
    kv_cache_rope: Tensor,
    slotmapping: Tensor,
    *,
    quant_scale0: Tensor | None = None,
    quant_offset0: Tensor | None = None,
    bias0: Tensor | None = None,
    quant_scale1: Tensor | None = None,
    quant_offset1: Tensor | None = None,
    bias1: Tensor | None = None,
    ctkv_scale: Tensor | None = None,
    q_nope_scale: Tensor | None = None,
    cache_mode: str | None = None,
    quant_mode: str | None = None,
    q_out0: Tensor,
    kv_cache_out0: Tensor,
    q_out1: Tensor,
    kv_cache_out1: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute what latent attention reads: normalisations, int8 products, rotation, and the cache's new rows.

    Args:
        x: `[tokens, hidden]`.
        gamma0: of the first normalisation.
        beta0: of the first normalisation.
        wdqkv: int8 `[576 + 1536, hidden]`, latent, rotary part and query.
        descale0: scales of its sums.
        gamma1: of the query's normalisation.
        beta1: of the query's normalisation.
        wuq: int8 `[heads * 192, 1536]`.
        descale1: scales of its sums.
        gamma2: of the latent's normalisation.
        cos: `[tokens, 64]`.
        sin: `[tokens, 64]`.
        wuk: `[heads, 128, 512]`.
        kv_cache: latents.
        kv_cache_rope: rotary parts.
        slotmapping: slot of each token.
        quant_scale0: with `per_tensor_quant_asymm`, by which the first result is divided.
        quant_offset0: added to it.
        bias0: int32, added to the sums.
        quant_scale1: the same of the query.
        quant_offset1: the same of the query.
        bias1: the same of the query.
        ctkv_scale: of int8 latents.
        q_nope_scale: of int8 queries, of each head.
        cache_mode: `krope_ctkv` (default), `int8_nzcache` or `nzcache`.
        quant_mode: `per_token_quant_symm` (default) or `per_tensor_quant_asymm`.
        q_out0: queries `[tokens, heads, 512]`, overwritten.
        kv_cache_out0: latents, overwritten.
        q_out1: rotated queries `[tokens, heads, 64]`, overwritten.
        kv_cache_out1: rotary parts, overwritten.
    """
    name = "npu_mla_preprocess"
    if quant_mode not in (None, "per_token_quant_symm", "per_tensor_quant_asymm"):
        raise RuntimeError(f"{name}: quant_mode {quant_mode!r} is unknown")
    if cache_mode not in (None, "krope_ctkv", "int8_nzcache", "nzcache"):
        raise RuntimeError(f"{name}: cache_mode {cache_mode!r} is unknown")
    dynamic = quant_mode != "per_tensor_quant_asymm"

    def layer(
        values: Tensor,
        norm: tuple[Tensor, Tensor],
        quant: tuple[Tensor | None, Tensor | None],
        weight: Tensor,
        bias: Tensor | None,
        descale: Tensor,
    ) -> Tensor:
        normalised = rms_norm(values, norm[0], norm[1], 1e-6)[0]
        if dynamic:
            codes, rows = quantize_rows(normalised)
        else:
            scale, offset = quant
            if scale is None or offset is None:
                raise RuntimeError(f"{name}: per_tensor_quant_asymm needs quant_scale and quant_offset")
            codes, rows = encode(normalised / scale.float() + offset.float(), INT8), torch.ones(values.shape[0])
        matrix = operand(weight)
        if matrix.dim() == 4:  # [1, k / 32, n, 32]
            matrix = matrix[0].transpose(0, 1).flatten(1)
        sums = product(codes.float(), matrix.T, True)
        sums = sums if bias is None else sums + bias
        return (sums * scale_of(descale) * rows.unsqueeze(1)).to(x.dtype)

    down = layer(x, (gamma0, beta0), (quant_scale0, quant_offset0), wdqkv, bias0, descale0)
    latent, rotary, query = down.split([512, 64, down.shape[1] - 576], 1)
    up = layer(query, (gamma1, beta1), (quant_scale1, quant_offset1), wuq, bias1, descale1)
    heads = wuk.shape[0]
    plain, turned = up.view(x.shape[0], heads, 192).split([128, 64], -1)
    expand = wuk if wuk.dim() == 3 else wuk.permute(0, 2, 1, 3).flatten(2)
    whole = torch.einsum("thd,hdl->thl", plain.float(), expand.float())
    if q_nope_scale is not None and q_out0.dtype == torch.int8:
        q_out0.copy_(encode(whole / q_nope_scale.float().reshape(1, -1, 1), INT8))
    else:
        q_out0.copy_(whole.to(q_out0.dtype))
    q_out1.copy_(rotate_halves(turned, cos.unsqueeze(1), sin.unsqueeze(1)).to(q_out1.dtype))
    entry = rms_norm(latent, gamma2, None, 1e-6)[0]
    if kv_cache_out0.dtype == torch.int8 and ctkv_scale is not None:
        entry = encode(entry / ctkv_scale.float(), INT8)
    write = write_blocks if cache_mode in (None, "krope_ctkv") else write_fractal_blocks
    write(kv_cache_out0, entry, slotmapping)
    write(kv_cache_out1, rotate_halves(rotary, cos, sin), slotmapping)
    return q_out0, kv_cache_out0, q_out1, kv_cache_out1
