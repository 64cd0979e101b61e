"""Conversions between plain and quantised tensors, with given scales or with scales found in the data."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.number_formats import (
    DTYPES,
    FLOAT4_E2M1,
    FORMATS,
    HIFLOAT8,
    INT4,
    INT8,
    INT32,
    Format,
    blocks,
    decode,
    encode,
    encode_blocks,
    exponents,
    format_of,
    pack_int4,
    pair_scales,
    rounded,
    shared_exponents,
    unblocks,
    unpack_int4,
    unpair_scales,
)
from longcat.emulator.operators.groups import group_bounds
from longcat.emulator.reference import reference


@reference("npu_quantize", checked=True)
def quantize(
    x: Tensor, scales: Tensor, zero_points: Tensor | None, dtype: int, axis: int = 1, div_mode: bool = True
) -> Tensor:
    """Quantise with given scales, `x / scales + zero_points`, or `x * scales + zero_points` without `div_mode`."""
    form = format_of(dtype, "npu_quantize")
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise RuntimeError(f"npu_quantize: input must be float32, float16 or bfloat16, got {x.dtype}")
    if div_mode and form is INT4:
        raise RuntimeError("npu_quantize: quint4x2 needs div_mode=False")
    if not div_mode:
        axis = -2 if axis == -2 else -1
    if not -x.dim() <= axis < x.dim():
        raise RuntimeError(f"npu_quantize: axis {axis} is none of input's {x.dim()} dimensions")
    scale = _along(scales, x, axis, "scales")
    offset = 0 if zero_points is None else _along(zero_points, x, axis, "zero_points").float()
    scaled = x.float() / scale.float() if div_mode else x.float() * scale.float()
    if div_mode and form.storage in (torch.int8, torch.uint8, torch.int32) and form is not HIFLOAT8:
        return encode(rounded(scaled).double() + offset, INT32 if form is INT32 else form)
    return encode(scaled + offset, form)


@reference("npu_group_quant", checked=True)
def group_quant(
    x: Tensor,
    scale: Tensor,
    group_index: Tensor,
    *,
    offset: Tensor | None = None,
    dst_dtype: torch.dtype | None = None,
) -> Tensor:
    """Quantise `x * scale[group] + offset`, the groups being rows up to the ends in `group_index`."""
    if x.dim() != 2 or scale.dim() != 2 or group_index.dim() != 1 or scale.shape[1] != x.shape[1]:
        raise RuntimeError(
            "npu_group_quant: x and scale must be [rows, width] and [groups, width], group_index [groups]"
        )
    if scale.shape[0] != group_index.shape[0]:
        raise RuntimeError("npu_group_quant: scale must have a row for every group of group_index")
    bounds = group_bounds(group_index, 0, "npu_group_quant")
    if any(last < first for first, last in bounds) or (bounds and bounds[-1][1] != x.shape[0]):
        raise RuntimeError("npu_group_quant: group_index must not fall, and end with the number of rows of x")
    result = torch.zeros(x.shape)
    for group, (first, last) in enumerate(bounds):
        result[first:last] = x[first:last].float() * scale[group].float()
    return encode(result if offset is None else result + offset.float(), format_of(dst_dtype, "npu_group_quant"))


@reference("npu_dynamic_quant", checked=True)
def dynamic_quant(
    x: Tensor,
    *,
    smooth_scales: Tensor | None = None,
    group_index: Tensor | None = None,
    dst_type: int | None = None,
    quant_mode: str = "pertoken",
    dst_type_max: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Quantise by the largest absolute value of each token, channel or tensor; return values and scales."""
    form = format_of(dst_type, "npu_dynamic_quant")
    values, dims = _smoothed(x, smooth_scales, group_index, quant_mode, "npu_dynamic_quant")
    return quantize_rows(values, form, dims, dst_type_max)


@reference("npu_dynamic_quant_asymmetric", checked=True)
def dynamic_quant_asymmetric(
    x: Tensor,
    *,
    smooth_scales: Tensor | None = None,
    group_index: Tensor | None = None,
    dst_type: int | None = None,
    quant_mode: str = "pertoken",
    dst_type_max: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise by the range of each token, channel or tensor; return values, scales and offsets."""
    form = format_of(dst_type, "npu_dynamic_quant_asymmetric")
    values, dims = _smoothed(x, smooth_scales, group_index, quant_mode, "npu_dynamic_quant_asymmetric")
    high = dst_type_max or form.largest
    low = -dst_type_max or form.low
    top, bottom = values.amax(dims, keepdim=True), values.amin(dims, keepdim=True)
    scale = (top - bottom) / (high - low)
    offset = high - top / scale
    codes = encode(values / scale + offset, form)
    return codes, _without(scale, dims), _without(offset, dims)


def quantize_rows(
    values: Tensor, form: Format = INT8, dims: tuple[int, ...] = (-1,), largest: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Quantise float32 values by their largest absolute value over some dimensions; zero stays zero.

    Args:
        values: to quantise.
        form: what to quantise to.
        dims: dimensions that share a scale.
        largest: value that the largest one becomes; 0 for the format's largest.
    """
    top = values.abs().amax(dims, keepdim=True)
    scale = top / (largest or form.largest)
    codes = encode(torch.where(scale == 0, torch.zeros(()), values / scale), form)
    return codes, _without(scale, dims)


@reference("npu_dynamic_block_quant", checked=True)
def dynamic_block_quant(
    x: Tensor,
    *,
    min_scale: float = 0.0,
    round_mode: str = "rint",
    dst_type: int = 1,
    row_block_size: int = 1,
    col_block_size: int = 128,
    dst_type_max: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Quantise each block of rows and columns by its largest absolute value, but no finer than `min_scale`."""
    form = format_of(dst_type, "npu_dynamic_block_quant")
    if x.dtype not in (torch.float16, torch.bfloat16):
        raise RuntimeError(f"npu_dynamic_block_quant: x must be float16 or bfloat16, got {x.dtype}")
    split = blocks(
        blocks(x.float(), -1, col_block_size), -3, row_block_size
    )  # [.., col blocks, cols, row blocks, rows]
    scale = (split.abs().amax((-1, -3)) / (dst_type_max or form.largest)).clamp(min=min_scale)
    wide = scale[..., :, None, :, None]
    scaled = torch.where(wide == 0, torch.zeros(()), split / wide)
    whole = unblocks(unblocks(scaled, -3, x.shape[-2]), -1, x.shape[-1])
    return encode(whole, form, round_mode), scale.mT


@reference("npu_grouped_dynamic_block_quant", checked=True)
def grouped_dynamic_block_quant(
    x: Tensor,
    group_list: Tensor,
    *,
    min_scale: float = 0.0,
    round_mode: str = "rint",
    dst_type: int = 291,
    row_block_size: int = 1,
    col_block_size: int = 128,
    group_list_type: int = 0,
    dst_type_max: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Quantise blocks that do not cross the borders of groups of rows; rows of scales that are left over are zero."""
    form = format_of(dst_type, "npu_grouped_dynamic_block_quant")
    values = torch.zeros(x.shape, dtype=form.storage)
    scales = torch.zeros(
        *x.shape[:-2], x.shape[-2] // row_block_size + group_list.shape[0], -(-x.shape[-1] // col_block_size)
    )
    row = 0
    for group, (first, last) in enumerate(group_bounds(group_list, group_list_type, "npu_grouped_dynamic_block_quant")):
        row = first // row_block_size + group
        if last <= first:
            continue
        part, scale = dynamic_block_quant(
            x[..., first:last, :],
            min_scale=min_scale, round_mode=round_mode, dst_type=dst_type, row_block_size=row_block_size,
            col_block_size=col_block_size, dst_type_max=dst_type_max,
        )  # fmt: skip
        values[..., first:last, :] = part
        scales[..., row : row + scale.shape[-2], :] = scale
    return values, scales


@reference("npu_dynamic_mx_quant", checked=True)
def dynamic_mx_quant(
    x: Tensor,
    *,
    axis: int = -1,
    round_mode: str = "rint",
    dst_type: int = 296,
    block_size: int = 32,
    scale_alg: int | None = 0,
    dst_type_max: float = 0.0,
    max_low_bound: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Quantise blocks of an axis with shared exponents (OCP Microscaling, 6.3)."""
    form = format_of(dst_type, "npu_dynamic_mx_quant")
    return encode_blocks(x, form, axis, block_size, round_mode, scale_alg or 0, dst_type_max)


@reference("npu_dynamic_mx_quant_with_dual_axis", checked=True)
def dynamic_mx_quant_with_dual_axis(
    x: Tensor,
    *,
    round_mode: str = "rint",
    dst_type: int = 296,
    scale_alg: int = 0,
    dst_type_max: float | None = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quantise with shared exponents along the last axis, and along the one before."""
    form = format_of(dst_type, "npu_dynamic_mx_quant_with_dual_axis")
    options = (32, round_mode, scale_alg, dst_type_max or 0.0)
    return *encode_blocks(x, form, -1, *options), *encode_blocks(x, form, -2, *options)


@reference("npu_dynamic_block_mx_quant", checked=True)
def dynamic_block_mx_quant(
    x: Tensor, *, round_mode: str = "rint", dst_type: int = 296, scale_alg: int = 0, dst_type_max: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise blocks of 32 by 32 with a shared exponent, which is returned by rows and by columns."""
    form = format_of(dst_type, "npu_dynamic_block_mx_quant")
    split = blocks(blocks(x.float(), -1, 32), -3, 32)
    scales = shared_exponents(split.abs().amax((-1, -3)), form, scale_alg, dst_type_max)  # [.., col blocks, row blocks]
    scaled = split / exponents(scales)[..., :, None, :, None]
    whole = unblocks(unblocks(scaled, -3, x.shape[-2]), -1, x.shape[-1])
    by_row = scales.mT.repeat_interleave(32, -2)[..., : x.shape[-2], :]
    by_column = scales.repeat_interleave(32, -2)[..., : x.shape[-1], :]
    last = x.dim() - 1
    return encode(whole, form, round_mode), pair_scales(by_row, last), pair_scales(by_column, last - 1)


@reference("npu_dynamic_dual_level_mx_quant", checked=True)
def dynamic_dual_level_mx_quant(
    x: Tensor, *, smooth_scale: Tensor | None = None, round_mode: str = "rint"
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise to float4_e2m1 with a float32 scale for 512 values and a shared exponent for 32 of them."""
    if smooth_scale is not None:
        raise RuntimeError("npu_dynamic_dual_level_mx_quant: smooth_scale is not supported by the device")
    split = blocks(x.float(), -1, 512)
    scale = split.abs().amax(-1) / FLOAT4_E2M1.largest
    wide = scale.unsqueeze(-1)
    first = unblocks(torch.where(wide == 0, torch.zeros(()), split / wide), x.dim() - 1, x.shape[-1]).to(x.dtype)
    values, exponent = encode_blocks(first, FLOAT4_E2M1, -1, 32, round_mode)
    return values, scale, exponent


@reference("npu_grouped_dynamic_mx_quant", checked=True)
def grouped_dynamic_mx_quant(
    x: Tensor,
    group_index: Tensor,
    *,
    round_mode: str = "rint",
    dst_type: int = 23,
    blocksize: int = 32,
    scale_alg: int | None = 0,
    dst_type_max: float | None = 0.0,
) -> tuple[Tensor, Tensor]:
    """Quantise blocks of rows, which do not cross the ends of groups in `group_index`, with shared exponents."""
    form = format_of(dst_type, "npu_grouped_dynamic_mx_quant")
    scales = torch.zeros(x.shape[0] // 2 // blocksize + group_index.shape[0], x.shape[1], 2, dtype=torch.uint8)
    values = torch.zeros(x.shape[0], x.shape[1] // form.packed, dtype=form.storage)
    for group, (first, last) in enumerate(group_bounds(group_index, 0, "npu_grouped_dynamic_mx_quant")):
        if last <= first:
            continue
        row = first // (2 * blocksize) + group
        part, exponent = encode_blocks(
            x[first:last], form, 0, blocksize, round_mode, scale_alg or 0, dst_type_max or 0.0
        )
        values[first:last] = part
        scales[row : row + exponent.shape[0]] = exponent
    return values, scales


@reference("npu_quant_max", checked=True)
def quant_max(
    x: Tensor, scale: Tensor, *, round_mode: str = "rint", dst_dtype: int = 291, group_list: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Quantise with given scales, one or one a group of rows; return the largest absolute values before it too."""
    form = format_of(dst_dtype, "npu_quant_max")
    bounds = [(0, x.shape[0])] if group_list is None else group_bounds(group_list, 0, "npu_quant_max")
    values, largest = torch.zeros(x.shape), torch.zeros(len(bounds), dtype=x.dtype)
    for group, (first, last) in enumerate(bounds):
        if last > first:
            values[first:last] = x[first:last].float() * scale[group].float()
            largest[group] = x[first:last].abs().max()
    return encode(values, form, round_mode), largest


@reference("npu_anti_quant", checked=True)
def anti_quant(
    x: Tensor,
    scale: Tensor,
    *,
    offset: Tensor | None = None,
    dst_dtype: int | None = None,
    src_dtype: int | None = None,
) -> Tensor:
    """Return `(x + offset) * scale` of quantised values; int32 holds eight int4 each."""
    dtype = torch.float16 if dst_dtype is None else DTYPES.get(dst_dtype)
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise RuntimeError(f"npu_anti_quant: Input dst_type must be valid, float16 or bfloat16, but got {dst_dtype}")
    if x.dtype not in (torch.int8, torch.int32, torch.uint8, torch.float8_e5m2, torch.float8_e4m3fn):
        raise RuntimeError(f"npu_anti_quant: x must be int8, or int32 with eight int4 each, got {x.dtype}")
    values = unpack_int4(x) if x.dtype == torch.int32 else x
    number = 290 if x.dtype == torch.uint8 else None
    if scale.dim() > 1 or scale.numel() not in (1, values.shape[-1]):
        raise RuntimeError(
            f"npu_anti_quant: scale must have shape [1] or [{values.shape[-1]}], got {list(scale.shape)}"
        )
    if offset is not None and offset.shape != scale.shape:
        raise RuntimeError("npu_anti_quant: offset must have the shape of scale")
    whole = decode(values, number)
    whole = whole if offset is None else whole + offset.float()
    return (whole * scale.float()).to(dtype)


@reference("npu_anti_mx_quant", checked=True)
def anti_mx_quant(
    x: Tensor, mxscale: Tensor, *, axis: int | None = -1, dst_type: int | None = 15, src_type: int | None = 292
) -> Tensor:
    """Return the values of blocks with shared exponents."""
    packed = x.dtype not in (torch.float8_e5m2, torch.float8_e4m3fn)
    values = decode(x, src_type if packed else None)
    axis = (-1 if axis is None else axis) % x.dim()
    split = blocks(values, axis, 32)
    scale = exponents(unpair_scales(mxscale, axis))[..., : split.shape[-2]]
    whole = unblocks(split * scale.unsqueeze(-1), axis, values.shape[axis])
    return whole.to(DTYPES.get(15 if dst_type is None else dst_type, torch.bfloat16))


@reference("npu_dequant_bias", checked=True)
def dequant_bias(
    x: Tensor,
    weight_scale: Tensor,
    activation_scale: Tensor | None,
    bias: Tensor | None,
    *,
    output_dtype: torch.dtype | None = None,
) -> Tensor:
    """Scale int32 sums of a product by channel and token; an int32 bias is added before, a float one after."""
    if x.dtype != torch.int32:
        raise RuntimeError(f"npu_dequant_bias: x must be int32, got {x.dtype}")
    whole = x if bias is None or bias.dtype != torch.int32 else x + bias
    result = whole.float() * weight_scale.float()
    if activation_scale is not None:
        result = result * activation_scale.float().reshape(-1, 1)
    if bias is not None and bias.dtype != torch.int32:
        result = result + bias.float()
    return result.to(output_dtype or torch.float16)


@reference("npu_trans_quant_param", checked=True)
def trans_quant_param(scale: Tensor, offset: Tensor | None = None, round_mode: int | None = 0) -> Tensor:
    """Write a float32 scale's highest 19 bits, and an offset of nine, into an int64 as matrix products read it."""
    if scale.dtype != torch.float32 or (offset is not None and offset.dtype != torch.float32):
        raise RuntimeError("npu_trans_quant_param: scale and offset must be float32")
    bits = scale.contiguous().view(torch.int32).long() & 0xFFFFFFFF
    if round_mode == 1:
        bits = bits + 0x0FFF + ((bits >> 13) & 1)
    result = (bits & 0xFFFFE000) | (1 << 46)
    if offset is None:
        return result
    nine = torch.round(offset).clamp(-256, 255).long() & 0x1FF
    return (result & 0x4000FFFFFFFF) | (nine << 37)


def scale_of(stored: Tensor) -> Tensor:
    """Return scales as float32: those in int64 are float32 in the lowest 32 bits (npu_trans_quant_param)."""
    if stored.dtype not in (torch.int64, torch.uint64):
        return stored.float()
    low = stored.contiguous().view(torch.int64) & 0xFFFFFFFF
    return torch.where(low >= 2**31, low - 2**32, low).int().view(torch.float32)


def offset_of(stored: Tensor) -> Tensor:
    """Return the offsets beside scales in int64 (npu_trans_quant_param); zero for others."""
    if stored.dtype not in (torch.int64, torch.uint64):
        return torch.zeros(())
    nine = (stored.contiguous().view(torch.int64) >> 37) & 0x1FF
    return torch.where(nine > 255, nine - 512, nine).float()


@reference("npu_convert_weight_to_int4pack")
def convert_weight_to_int4pack(weight: Tensor, inner_k_tiles: int = 0) -> Tensor:
    """Pack eight weights of the last dimension into one element: int4 of int32, or float4_e2m1 of float32."""
    if weight.dtype not in (torch.int32, torch.float32):
        raise RuntimeError(f"npu_convert_weight_to_int4pack: weight must be int32, got {weight.dtype}")
    if weight.dim() not in (2, 3) or weight.shape[-1] % 8:
        raise RuntimeError(
            "npu_convert_weight_to_int4pack: weight must have 2 or 3 dimensions, the last one divisible by 8, "
            f"got {list(weight.shape)}"
        )
    if weight.dtype == torch.int32:
        return pack_int4(weight)
    return encode(weight, FLOAT4_E2M1).contiguous().view(torch.float32)


@reference("npu_weight_quant_preprocess", checked=True)
def weight_quant_preprocess(
    weight: Tensor,
    weight_scale: Tensor,
    x_dtype: int,
    weight_dtype: int,
    weight_scale_dtype: int,
    weight_offset: Tensor | None = None,
    bias: Tensor | None = None,
    x_scale_dtype: int | None = None,
    k_group_size: int | None = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weights and scales as they are: the emulated products need no other order in memory."""
    none = torch.empty(0, dtype=weight.dtype)
    given = (none if weight_offset is None else weight_offset.clone(), none if bias is None else bias.clone())
    return weight.clone(), weight_scale.clone(), *given


@reference("npu_quant_scatter", checked=True)
def quant_scatter(
    x: Tensor,
    indices: Tensor,
    updates: Tensor,
    quant_scales: Tensor,
    quant_zero_points: Tensor | None = None,
    axis: int = -2,
    quant_axis: int = -1,
    reduce: str = "update",
    dst_type: int | None = None,
    round_mode: str | None = "rint",
) -> Tensor:
    """Return a copy of x into which quantised updates were written (`quant_scatter_`)."""
    return quant_scatter_(
        x.clone(), indices, updates, quant_scales, quant_zero_points, axis, quant_axis, reduce, dst_type, round_mode
    )


@reference("npu_quant_scatter_", checked=True)
def quant_scatter_(
    x: Tensor,
    indices: Tensor,
    updates: Tensor,
    quant_scales: Tensor,
    quant_zero_points: Tensor | None = None,
    axis: int = -2,
    quant_axis: int = -1,
    reduce: str = "update",
    dst_type: int | None = None,
    round_mode: str | None = "rint",
) -> Tensor:
    """Quantise updates and write them into x from the positions `indices` of an axis on, one for each first index.

    Args:
        x: `[batch, .., width]`.
        indices: where along `axis` each batch is written, `[batch]`, or pairs of batch and position.
        updates: `[batch, .., width]`.
        quant_scales: by which updates are divided, for each entry of the last dimension.
        quant_zero_points: what is added afterwards.
        axis: not the first and not the last dimension.
        quant_axis: the last dimension.
        reduce: `update`, nothing else.
        dst_type: type of x; None for int8.
        round_mode: see `rounded`.
    """
    if reduce != "update":
        raise RuntimeError(f"npu_quant_scatter: reduce must be 'update', got {reduce!r}")
    if not 3 <= x.dim() <= 8 or updates.dim() != x.dim():
        raise RuntimeError("npu_quant_scatter: input must have 3 to 8 dimensions, and updates as many")
    axis, last = axis % x.dim(), x.dim() - 1
    if axis in (0, last) or quant_axis % x.dim() != last:
        raise RuntimeError(
            "npu_quant_scatter: axis must be neither the first nor the last one, quant_axis the last one"
        )
    if quant_scales.numel() != updates.shape[-1]:
        raise RuntimeError("npu_quant_scatter: quant_scales must have as many elements as updates' last dimension")
    values = updates.float() / quant_scales.float().flatten()
    if quant_zero_points is not None:
        values = rounded(values, round_mode or "rint") + quant_zero_points.float().flatten()
    codes = encode(
        values, format_of(dst_type if dst_type is not None else 1, "npu_quant_scatter"), round_mode or "rint"
    )
    pairs = indices.tolist() if indices.dim() == 2 else list(enumerate(indices.tolist()))
    for row, (batch, start) in enumerate(pairs):
        x[batch].narrow(axis - 1, start, updates.shape[axis]).copy_(codes[row].to(x.dtype))
    return x


@reference("npu_kronecker_quant", checked=True)
def kronecker_quant(
    x: Tensor,
    kronecker_p1: Tensor,
    kronecker_p2: Tensor,
    clip_ratio: float | None = None,
    dst_dtype: int | None = None,
    dst_type_max: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Multiply x `[batch, m, n]` from both sides and quantise each of the batch to int4 (FlatQuant, equation 5)."""
    rotated = (kronecker_p1 @ (x @ kronecker_p2)).float()
    if dst_dtype == 296:
        return encode_blocks(rotated.flatten(1), FLOAT4_E2M1, -1, type_largest=dst_type_max or 0.0)
    scale = rotated.abs().amax((-1, -2)) / (INT4.largest * (1.0 if clip_ratio is None else clip_ratio))
    return encode(rotated / scale[:, None, None], INT4), scale


@reference("npu_rotate_quant")
def rotate_quant(
    x: Tensor,
    rotation: Tensor,
    *,
    alpha: Tensor | None = None,
    dst_dtype: int | None = None,
    axis: int | None = -1,
    round_mode: str | None = "rint",
    scale_alg: int | None = 0,
    dst_type_max: float | None = 0.0,
    transpose_y: bool | None = False,
) -> tuple[Tensor, Tensor]:
    """Multiply blocks of the last dimension by a matrix, then quantise by token, or by blocks for fp8 and fp4."""
    form = format_of(dst_dtype, "npu_rotate_quant")
    if transpose_y:
        raise RuntimeError("npu_rotate_quant: transpose_y must be False")
    size = rotation.shape[-1]
    if x.dtype != rotation.dtype or x.shape[-1] % size or rotation.shape[-2] != size:
        raise RuntimeError("npu_rotate_quant: rotation must be square, of x's type, and its width divide that of x")
    split = x.unflatten(-1, (-1, size))
    rotated = (split.unsqueeze(-2) @ rotation).squeeze(-2) if rotation.dim() == 3 else split @ rotation
    rotated = rotated.flatten(-2).to(x.dtype).float()
    if form in (INT8, INT4):
        return quantize_rows(rotated, form)
    return encode_blocks(rotated, form, -1, 32, round_mode or "rint", scale_alg or 0, dst_type_max or 0.0)


@reference("_quantize_per_channel_impl.out")
def quantize_per_channel(
    x: Tensor, scales: Tensor, zero_points: Tensor, axis: int, dtype: torch.dtype, *, result: Tensor
) -> Tensor:
    """Quantise each channel as torch does, and return the integers."""
    return result.copy_(quantize(x, scales, zero_points, _number(dtype), axis))


@reference("_quantize_per_tensor_impl.out")
def quantize_per_tensor(
    x: Tensor, scales: Tensor, zero_points: Tensor, dtype: torch.dtype, *, result: Tensor
) -> Tensor:
    """Quantise with one scale as torch does, and return the integers."""
    return result.copy_(quantize(x, scales, zero_points, _number(dtype), 0))


def _number(dtype: torch.dtype) -> int:
    return next(number for number, form in FORMATS.items() if form is format_of(dtype, "quantize"))


def _along(parameters: Tensor, x: Tensor, axis: int, name: str) -> Tensor:
    """Bring scales or offsets of one axis, or of a whole tensor, into a shape that x can be combined with."""
    axis = axis % x.dim()
    if parameters.numel() not in (1, x.shape[axis]) or parameters.dim() not in (0, 1, x.dim()):
        raise RuntimeError(
            f"npu_quantize: {name} must have one element or input's size of axis {axis}, {x.shape[axis]}, "
            f"got shape {list(parameters.shape)}"
        )
    return parameters.reshape([parameters.numel() if i == axis else 1 for i in range(x.dim())])


def _smoothed(
    x: Tensor, smooth_scales: Tensor | None, group_index: Tensor | None, mode: str, operator: str
) -> tuple[Tensor, tuple[int, ...]]:
    """Return x times its smoothing scales as float32, and the dimensions that share a scale."""
    if x.dtype not in (torch.float16, torch.bfloat16):
        raise RuntimeError(f"{operator}: x must be float16 or bfloat16, got {x.dtype}")
    if x.dim() < 2:
        raise RuntimeError(f"{operator}: x must have 2 dimensions or more, got {x.dim()}")
    if mode not in ("pertoken", "pertensor", "perchannel"):
        raise RuntimeError(f"{operator}: quant_mode must be pertoken, pertensor or perchannel, got {mode}")
    dims = {"pertoken": (-1,), "perchannel": (-2,), "pertensor": tuple(range(x.dim()))}[mode]
    if group_index is not None:
        if smooth_scales is None or smooth_scales.dim() != 2 or smooth_scales.shape[0] != group_index.shape[0]:
            raise RuntimeError(f"{operator}: with group_index, smooth_scales must be [groups, {x.shape[-1]}]")
        rows = x.flatten(0, -2).float()
        for group, (first, last) in enumerate(group_bounds(group_index, 0, operator)):
            rows[first:last] = rows[first:last] * smooth_scales[group].float()
        return rows.view(x.shape), dims
    if smooth_scales is None:
        return x.float(), dims
    width = x.shape[-2] if mode == "perchannel" else x.shape[-1]
    if smooth_scales.shape != (width,):
        raise RuntimeError(f"{operator}: smooth_scales must have shape [{width}], got {list(smooth_scales.shape)}")
    smooth = smooth_scales.float()
    return x.float() * (smooth.unsqueeze(-1) if mode == "perchannel" else smooth), dims


def _without(statistic: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Drop the dimensions that were reduced; a statistic of a whole tensor keeps one."""
    return statistic.reshape(1) if len(dims) == statistic.dim() and len(dims) > 1 else statistic.squeeze(dims)
