"""Products of quantised matrices, plain and per group of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.emulator.number_formats import (
    DTYPES,
    E8M0,
    FLOAT4_E1M2,
    FLOAT4_E2M1,
    FORMATS,
    HIFLOAT8,
    INT8,
    decode,
    encode,
    encode_blocks,
    exponents,
    format_of,
    unpack_int4,
)
from longcat.emulator.operators.groups import group_bounds, numbered_groups
from longcat.emulator.operators.quantization import offset_of, quantize_rows, scale_of
from longcat.emulator.reference import reference

_FLOAT4 = (FLOAT4_E1M2, FLOAT4_E2M1)


def operand(matrix: Tensor, number: int | None = None) -> Tensor:
    """Return the float32 values of a factor; `number` names a type that torch has not.

    int32 holds eight int4 each, along the dimension that is contiguous.
    """
    matrix = natural_order(matrix)
    if matrix.dim() >= 2 and not matrix.is_contiguous() and matrix.stride(-2) == 1:
        return operand(matrix.mT.contiguous(), number).mT
    if matrix.dtype == torch.int32:
        return unpack_int4(matrix).float()
    if number == 285 and matrix.element_size() == 1:
        return unpack_int4(matrix).float()
    if FORMATS.get(number or -1) is HIFLOAT8 or FORMATS.get(number or -1) in _FLOAT4:
        return decode(matrix.contiguous(), number)
    return matrix.float()


def natural_order(matrix: Tensor) -> Tensor:
    """Return `[groups, k, n]` of five dimensions in the order FRACTAL_NZ: `[groups, n / n0, k / 16, 16, n0]`."""
    if matrix.dim() != 5 or matrix.shape[-2] != 16:
        return matrix
    return matrix.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)


def packed_float4(matrix: Tensor) -> Tensor:
    """Return the values of a weight that `npu_convert_weight_to_int4pack` packed into float32."""
    if matrix.is_contiguous():
        return decode(matrix.view(torch.uint8), 296)
    return packed_float4(matrix.mT.contiguous()).mT


def product(a: Tensor, b: Tensor, whole: bool) -> Tensor:
    """Multiply matrices; of whole numbers every sum is exact, as the device adds them in int32."""
    if whole and a.shape[-1] * _most(a) * _most(b) >= 2**24:
        return a.double() @ b.double()
    return a @ b


def _most(matrix: Tensor) -> float:
    return float(matrix.abs().max()) if matrix.numel() else 0.0


def plain_dtype(number: int | torch.dtype | None, default: torch.dtype) -> torch.dtype:
    """Return a type by torch's or torch_npu's number."""
    if isinstance(number, torch.dtype):
        return number
    if number is None:
        return default
    return DTYPES[number] if number in DTYPES else FORMATS[number].storage


def finish(result: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a result: rounded and saturated where it is quantised."""
    return encode(result, INT8) if dtype == torch.int8 else result.to(dtype)


def shared_row_scales(scale: Tensor, length: int) -> Tensor:
    """Spread e8m0 scales of x, `[.., rows, blocks, 2]` or `[.., rows, blocks]`, over its columns."""
    whole = exponents(scale)
    whole = whole.flatten(-2) if whole.shape[-1] == 2 and whole.dim() >= 3 else whole
    return whole.repeat_interleave(32, -1)[..., :length]


def shared_column_scales(scale: Tensor, length: int) -> Tensor:
    """Spread e8m0 scales of a weight, `[.., blocks, columns, 2]` or `[blocks, columns]`, over its rows."""
    whole = exponents(scale)
    whole = whole.transpose(-1, -2).flatten(-3, -2) if whole.dim() > 2 else whole
    return whole.repeat_interleave(32, -2)[..., :length, :]


def _spread(scale: Tensor, rows: int, columns: int) -> Tensor:
    """Repeat a scale for each block, `[.., row blocks, column blocks]`, over the values of the blocks."""
    tall = scale.repeat_interleave(-(-rows // scale.shape[-2]), -2)[..., :rows, :]
    return tall.repeat_interleave(-(-columns // scale.shape[-1]), -1)[..., :columns]


@reference("npu_quant_matmul", checked=True)
def quant_matmul(
    x1: Tensor,
    x2: Tensor,
    scale: Tensor,
    *,
    offset: Tensor | None = None,
    pertoken_scale: Tensor | None = None,
    bias: Tensor | None = None,
    output_dtype: int | None = None,
    x1_dtype: int | None = None,
    x2_dtype: int | None = None,
    pertoken_scale_dtype: int | None = None,
    scale_dtype: int | None = None,
    group_sizes: list[int] | None = None,
    y_scale: Tensor | None = None,
) -> Tensor:
    """Multiply quantised matrices and scale the result; see the wheel's documentation of the operator.

    Args:
        x1: `[.., m, k]`, int8, fp8, or int4 and fp4 packed along k.
        x2: `[.., k, n]`.
        scale: of columns, `[n]` or `[1]`; or of blocks.
        offset: added to an int8 result; of int4 weights in groups, subtracted from the weights.
        pertoken_scale: of rows, `[m]`; or of blocks.
        bias: int32 is added to the sums, float to the scaled result.
        output_dtype: number of the type; None for int8.
        x1_dtype: type of x1 if torch has it not; the same of the next ones.
        x2_dtype: see above.
        pertoken_scale_dtype: see above.
        scale_dtype: see above.
        group_sizes: rows, columns and summed values that share a scale.
        y_scale: of fp8 times fp4, what the result is multiplied with.
    """
    dtype = plain_dtype(output_dtype, torch.int8)
    if offset is not None and x1.dtype == x2.dtype == torch.int8 and dtype != torch.int8:
        raise RuntimeError(f"npu_quant_matmul: offset needs an int8 result, got {dtype}")
    packed = x2.dtype == torch.float32
    a, b = operand(x1, x1_dtype), packed_float4(x2) if packed else operand(x2, x2_dtype)
    length = a.shape[-1]
    whole = x1.dtype in (torch.int8, torch.int32) and x1_dtype is None
    if scale_dtype == E8M0 or pertoken_scale_dtype == E8M0:
        result = (a * shared_row_scales(_given(pertoken_scale, "pertoken_scale"), length)) @ (
            b * shared_column_scales(scale, length)
        )
    elif scale.dim() >= 2 and scale.shape[-2] > 1 and not packed:
        if x1.dtype == torch.int8 and scale.dtype == torch.int64:  # int4 weights: see without_low_bits
            result = (without_low_bits(a) @ (b * _spread(scale_of(scale), length, b.shape[-1]))).float()
            result = result if offset is None else result + offset.float()
            result = result * _given(pertoken_scale, "pertoken_scale").float().reshape(-1, 1)
        elif pertoken_scale is not None and pertoken_scale.dim() >= 2 and pertoken_scale.shape[-1] > 1:
            result = (a * _spread(pertoken_scale.float(), a.shape[-2], length)) @ (
                b * _spread(scale.float(), length, b.shape[-1])
            )
        else:
            b = b if offset is None else b - _spread(offset.float(), length, b.shape[-1])
            result = a @ (b * _spread(scale_of(scale), length, b.shape[-1]))
            if pertoken_scale is not None:
                result = result * pertoken_scale.float().reshape(-1, 1)
        return finish(result if bias is None else result + bias.float(), dtype)
    else:
        sums = product(a, b, whole)
        if bias is not None and bias.dtype == torch.int32:
            sums = sums + bias
        if dtype == torch.int32:
            return sums.to(torch.int32)
        result = sums * scale_of(scale).flatten()
        if pertoken_scale is not None:
            result = result * (pertoken_scale if pertoken_scale.numel() == 1 else pertoken_scale.reshape(-1, 1))
        if dtype == torch.int8:
            result = result + (offset_of(scale).flatten() if offset is None else offset.float())
    if bias is not None and bias.dtype != torch.int32:
        result = result + bias.float()
    if y_scale is not None:
        result = result * scale_of(y_scale)
    return finish(result, dtype)


def _given(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise RuntimeError(f"{name} is needed with these types")
    return value


def without_low_bits(x: Tensor) -> Tensor:
    """Return int8 values as products with int4 take them: the lower four bits are less by 8, made up for by the bias."""
    return x - 8


@reference("npu_quant_matmul_gelu")
def quant_matmul_gelu(
    x1: Tensor,
    x2: Tensor,
    x1_scale: Tensor,
    x2_scale: Tensor,
    *,
    bias: Tensor | None = None,
    approximate: str | None = "gelu_erf",
) -> Tensor:
    """Multiply quantised matrices, scale by rows and columns, and apply GELU."""
    if approximate not in ("gelu_erf", "gelu_tanh"):
        raise RuntimeError(f"npu_quant_matmul_gelu: approximate must be 'gelu_erf' or 'gelu_tanh', got {approximate!r}")
    if x1.dtype != x2.dtype or x1.dtype not in (torch.int8, torch.int32):
        raise RuntimeError(f"npu_quant_matmul_gelu: x1 and x2 must both be int8 or int32, got {x1.dtype}, {x2.dtype}")
    if x1_scale.dim() != 1 or x2_scale.dim() != 1:
        raise RuntimeError("npu_quant_matmul_gelu: x1_scale and x2_scale must have one dimension")
    sums = product(operand(x1), operand(x2), True)
    bfloat = x2_scale.dtype == torch.bfloat16 or (bias is not None and bias.dtype == torch.bfloat16)
    if bias is not None and bias.dtype == torch.int32:
        sums, bias = sums + bias, None
    result = (sums * x2_scale.float() * x1_scale.unsqueeze(-1)).float()
    result = result if bias is None else result + bias.float()
    result = F.gelu(result, approximate="tanh" if approximate == "gelu_tanh" else "none")
    return result.to(torch.bfloat16 if bfloat else torch.float16)


@reference("npu_quant_matmul_reduce_sum", checked=True)
def quant_matmul_reduce_sum(
    x1: Tensor, x2: Tensor, *, x1_scale: Tensor | None = None, x2_scale: Tensor | None = None
) -> Tensor:
    """Multiply batches of int8 matrices, scale by rows and columns, and add up the batch."""
    rows, columns = _given(x1_scale, "x1_scale"), _given(x2_scale, "x2_scale")
    sums = product(operand(x1), operand(x2), True)
    return (sums * rows.unsqueeze(-1) * columns.float()).sum(0).to(torch.bfloat16)


@reference("npu_quant_matmul_dequant", checked=True)
def quant_matmul_dequant(
    x: Tensor,
    quantized_weight: Tensor,
    weight_scale: Tensor,
    *,
    bias: Tensor | None = None,
    x_scale: Tensor | None = None,
    x_offset: Tensor | None = None,
    smooth_scale: Tensor | None = None,
    quant_mode: str | None = "pertoken",
) -> Tensor:
    """Quantise float16 rows, multiply with an int8 weight `[n, k]` and scale back.

    Args:
        x: `[m, k]`.
        quantized_weight: see above.
        weight_scale: `[n]`.
        bias: int32 `[n]`, added to the sums.
        x_scale: of rows (`pertoken`) or of all (`pertensor`); None finds those of rows.
        x_offset: of all, with which x was quantised.
        smooth_scale: `[k]`, by which x is multiplied first.
        quant_mode: see above.
    """
    if quant_mode not in ("pertoken", "pertensor"):
        raise RuntimeError(f"npu_quant_matmul_dequant: quant_mode must be pertoken or pertensor, got {quant_mode!r}")
    values = x.float() if smooth_scale is None else x.float() * smooth_scale.float()
    if x_scale is None:
        codes, scale = quantize_rows(values)
        scale = scale.unsqueeze(-1)
    else:
        scale = x_scale.float().reshape(-1, 1)
        codes = encode(values / scale + (0 if x_offset is None else x_offset.float()), INT8)
    sums = product(codes.float() - (0 if x_offset is None else x_offset.float()), quantized_weight.float().mT, True)
    sums = sums if bias is None else sums + bias
    return (sums * weight_scale * scale).to(x.dtype)


@reference("npu_quant_grouped_matmul_dequant", checked=True)
def quant_grouped_matmul_dequant(
    x: Tensor, quantized_weight: Tensor, weight_scale: Tensor, group_list: Tensor, **options: Any
) -> Tensor:
    """Do `quant_matmul_dequant` for groups of rows, whose ends are in `group_list`: weights `[groups, n, k]`."""
    result = torch.zeros(x.shape[0], quantized_weight.shape[1], dtype=x.dtype)
    for group, (first, last) in numbered_groups(group_list, 0, "npu_quant_grouped_matmul_dequant"):
        own = dict(options)
        for name, value in options.items():
            if isinstance(value, Tensor) and name in ("bias", "smooth_scale") and value.dim() == 2:
                own[name] = value[group]
            elif isinstance(value, Tensor) and name == "x_scale" and value.numel() == x.shape[0]:
                own[name] = value[first:last]
        if last > first:
            result[first:last] = quant_matmul_dequant(
                x[first:last], quantized_weight[group], weight_scale[group], **own
            )
    return result


def dequantized_weight(
    weight: Tensor, scale: Tensor, offset: Tensor | None, dtype: torch.dtype, number: int | None = None
) -> Tensor:
    """Return `(weight + offset) * scale` in the type that a product with `dtype` uses; scales may be of groups."""
    values = packed_float4(weight) if weight.dtype == torch.float32 else operand(weight, number)
    factor = exponents(scale) if scale.dtype == torch.uint8 else scale_of(scale)
    exact = torch.float16 if dtype == torch.float16 and scale.dtype == torch.float16 else torch.float32
    rows, columns = values.shape[-2:]
    factor, values = _factor(factor, rows, columns).to(exact), values.to(exact)
    if offset is not None:
        values = values + _factor(offset.float(), rows, columns).to(exact)
    return (values * factor).to(dtype).float()


def _factor(scale: Tensor, rows: int, columns: int) -> Tensor:
    """Spread the scale of a weight over its shape: of all, of columns, or of groups of rows."""
    if scale.numel() == 1:
        return scale.reshape(())
    scale = scale.reshape(1, -1) if scale.dim() == 1 else scale
    return _spread(scale, rows, columns) if scale.shape[-2] > 1 else scale


@reference("npu_weight_quant_batchmatmul", checked=True)
def weight_quant_batchmatmul(
    x: Tensor,
    weight: Tensor,
    antiquant_scale: Tensor,
    antiquant_offset: Tensor | None = None,
    quant_scale: Tensor | None = None,
    quant_offset: Tensor | None = None,
    bias: Tensor | None = None,
    antiquant_group_size: int = 0,
    inner_precise: int = 0,
    weight_dtype: int | None = None,
) -> Tensor:
    """Multiply x `[m, k]` with a quantised weight `[k, n]` that is scaled back first; the result may be quantised."""
    name = "npu_weight_quant_batchmatmul"
    if x.dtype not in (torch.float16, torch.bfloat16):
        raise RuntimeError(f"{name}: x must be float16 or bfloat16, got {x.dtype}")
    if antiquant_scale.dtype in (torch.float16, torch.bfloat16) and antiquant_scale.dtype != x.dtype:
        raise RuntimeError(f"{name}: antiquant_scale must have x's type {x.dtype}, got {antiquant_scale.dtype}")
    if antiquant_offset is not None and antiquant_offset.shape != antiquant_scale.shape:
        raise RuntimeError(f"{name}: antiquant_offset must have the shape of antiquant_scale")
    if antiquant_group_size and (antiquant_group_size % 32 or not 32 <= antiquant_group_size < x.shape[-1]):
        raise RuntimeError(
            f"{name}: antiquant_group_size must be a multiple of 32 below {x.shape[-1]}, got {antiquant_group_size}"
        )
    if quant_offset is not None and quant_scale is None:
        raise RuntimeError(f"{name}: quant_offset needs quant_scale")
    result = x.float() @ dequantized_weight(weight, antiquant_scale, antiquant_offset, x.dtype, weight_dtype)
    result = result if bias is None else result + bias.float()
    if quant_scale is None:
        return result.to(x.dtype)
    offset = offset_of(quant_scale) if quant_offset is None else quant_offset.float()
    return encode(result * scale_of(quant_scale) + offset, INT8)


@reference("npu_add_quant_matmul_", checked=True)
def add_quant_matmul_(
    total: Tensor, x1: Tensor, x2: Tensor, x2_scale: Tensor, *, x1_scale: Tensor | None = None, **types: Any
) -> Tensor:
    """Add a product of matrices with shared exponents, or with scales of rows and columns, to `total`."""
    return total.add_(_scaled_product(x1, x2, x2_scale, x1_scale, types))


@reference("npu_add_quant_matmul", checked=True)
def add_quant_matmul(total: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Return the sum of `add_quant_matmul_` as a new tensor."""
    return add_quant_matmul_(total.clone(), *arguments, **options)


@reference("npu_add_quant_gmm_", checked=True)
def add_quant_gmm_(
    total: Tensor,
    x1: Tensor,
    x2: Tensor,
    x2_scale: Tensor,
    group_list: Tensor,
    *,
    x1_scale: Tensor | None = None,
    group_list_type: int | None = 0,
    **types: Any,
) -> Tensor:
    """Add the product of each group of the summed dimension to `total[group]`: x1 `[m, k]`, x2 `[k, n]`."""
    groups = numbered_groups(group_list, group_list_type or 0, "npu_add_quant_gmm")
    shared = types.get("x2_scale_dtype") == E8M0
    for group, (first, last) in groups:
        rows, columns = x1_scale, x2_scale
        if shared:
            block = slice(first // 64 + group, -(-last // 64) + group)
            rows, columns = (None if x1_scale is None else x1_scale[:, block]), x2_scale[block]
        else:
            rows = None if x1_scale is None or x1_scale.shape[0] != total.shape[0] else x1_scale[group]
            columns = x2_scale[group] if x2_scale.shape[0] == total.shape[0] else x2_scale
        total[group] += _scaled_product(x1[:, first:last], x2[first:last], columns, rows, types)
    return total


@reference("npu_add_quant_gmm", checked=True)
def add_quant_gmm(total: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Return the sum of `add_quant_gmm_` as a new tensor."""
    return add_quant_gmm_(total.clone(), *arguments, **options)


def _scaled_product(x1: Tensor, x2: Tensor, x2_scale: Tensor, x1_scale: Tensor | None, types: dict[str, Any]) -> Tensor:
    a, b = operand(x1, types.get("x1_dtype")), operand(x2, types.get("x2_dtype"))
    if types.get("x2_scale_dtype") == E8M0 or x2_scale.dtype in (torch.uint8, torch.float8_e8m0fnu):
        rows = shared_row_scales(_given(x1_scale, "x1_scale"), a.shape[-1])
        return (a * rows) @ (b * shared_column_scales(x2_scale, b.shape[-2]))
    result = (a @ b) * x2_scale.float()
    return result if x1_scale is None else result * x1_scale.float().reshape(-1, 1)


@reference("npu_dual_level_quant_matmul")
def dual_level_quant_matmul(
    x1: Tensor,
    x2: Tensor,
    x1_level0_scale: Tensor,
    x2_level0_scale: Tensor,
    x1_level1_scale: Tensor,
    x2_level1_scale: Tensor,
    *,
    bias: Tensor | None = None,
    output_dtype: int = 15,
) -> Tensor:
    """Multiply float4_e2m1 x1 `[m, k]` and x2 `[n, k]`, with a scale for 512 values and an exponent for 32 of them."""
    factors = []
    for codes, coarse, fine in (
        (x1, x1_level0_scale, x1_level1_scale),
        (x2, x2_level0_scale.mT, x2_level1_scale),
    ):
        values = decode(codes.contiguous(), 296)
        length = values.shape[-1]
        wide = coarse.float().repeat_interleave(512, -1)[..., :length]
        factors.append(values * shared_row_scales(fine, length) * wide)
    result = factors[0] @ factors[1].mT
    return (result if bias is None else result + bias.float()).to(plain_dtype(output_dtype, torch.bfloat16))


@reference("npu_fused_matmul", checked=True)
def fused_matmul(
    x1: Tensor, x2: Tensor, *, bias: Tensor | None = None, x3: Tensor | None = None, fused_op_type: str = ""
) -> Tensor:
    """Multiply, then add or multiply with x3, or apply ReLU or GELU."""
    result = torch.matmul(x1.float(), x2.float())
    result = result if bias is None else result + bias.float()
    if fused_op_type in ("add", "mul"):
        other = _given(x3, "x3").float()
        result = result + other if fused_op_type == "add" else result * other
    elif fused_op_type in ("gelu_erf", "gelu_tanh"):
        result = F.gelu(result, approximate="tanh" if fused_op_type == "gelu_tanh" else "none")
    elif fused_op_type == "relu":
        result = result.relu()
    elif fused_op_type not in ("", "16cast32"):
        raise RuntimeError(f"npu_fused_matmul: fused_op_type {fused_op_type!r} is unknown")
    return result.to(x1.dtype)


@reference("npu_transpose_batchmatmul", checked=True)
def transpose_batchmatmul(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    perm_x1: list[int] | None = None,
    perm_x2: list[int] | None = None,
    perm_y: list[int] | None = None,
    batch_split_factor: int | None = 1,
) -> Tensor:
    """Multiply batches with permuted dimensions: `[m, batch, n]`, or split into columns of `batch_split_factor`."""
    result = x.float().permute(perm_x1 or [0, 1, 2]) @ weight.float().permute(perm_x2 or [0, 1, 2])
    return _transposed(result, x.dtype, scale, batch_split_factor or 1)


@reference("npu_transpose_quant_batchmatmul", checked=True)
def transpose_quant_batchmatmul(
    x1: Tensor,
    x2: Tensor,
    dtype: int,
    *,
    bias: Tensor | None = None,
    x1_scale: Tensor | None = None,
    x2_scale: Tensor | None = None,
    group_sizes: list[int] | None = None,
    perm_x1: list[int] | None = None,
    perm_x2: list[int] | None = None,
    perm_y: list[int] | None = None,
    batch_split_factor: int | None = 1,
    x1_dtype: int | None = None,
    x2_dtype: int | None = None,
) -> Tensor:
    """Multiply batches of fp8 matrices with permuted dimensions; scales of rows `[m]` and columns `[n]`, or shared."""
    first, second = perm_x1 or [0, 1, 2], perm_x2 or [0, 1, 2]
    a, b = operand(x1, x1_dtype).permute(first), operand(x2, x2_dtype).permute(second)
    if x1_scale is not None and x1_scale.dtype in (torch.uint8, torch.float8_e8m0fnu):
        rows = exponents(x1_scale).permute(*first, 3).flatten(-2).repeat_interleave(32, -1)[..., : a.shape[-1]]
        columns = exponents(_given(x2_scale, "x2_scale")).permute(*second, 3).transpose(-1, -2)
        a, b = a * rows, b * columns.flatten(-3, -2).repeat_interleave(32, -2)[..., : b.shape[-2], :]
        result = a @ b
    else:
        result = product(a, b, x1.dtype == torch.int8)
        result = result if x2_scale is None else result * x2_scale.float()
        result = result if x1_scale is None else result * x1_scale.float().reshape(-1, 1)
    return _transposed(result, plain_dtype(dtype, torch.float16), None, batch_split_factor or 1)


def _transposed(result: Tensor, dtype: torch.dtype, scale: Tensor | None, factor: int) -> Tensor:
    """Bring `[batch, m, n]` into the order of npu_transpose_batchmatmul."""
    moved = result.transpose(0, 1)
    if scale is not None:
        flat = moved.flatten(1).unsqueeze(1)
        return encode(flat * scale_of(scale).flatten(), INT8)
    if factor > 1:
        moved = moved.reshape(moved.shape[0], factor, -1).transpose(0, 1)
    return moved.to(dtype)


@reference("npu_batch_gather_matmul", checked=True)
def batch_gather_matmul(total: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Return the sum of `batch_gather_matmul_` as a new tensor."""
    return batch_gather_matmul_(total.clone(), *arguments, **options)


@reference("npu_batch_gather_matmul_", checked=True)
def batch_gather_matmul_(
    total: Tensor,
    x: Tensor,
    weight_b: Tensor,
    indices: Tensor,
    weight_a: Tensor | None = None,
    layer_idx: int = 0,
    scale: float = 1e-3,
    y_offset: int = 0,
    y_slice_size: int = -1,
) -> Tensor:
    """Add each row's own low-rank update to columns of `total`; rows whose index is out of range get none.

    Args:
        total: `[rows, width]`.
        x: `[rows, in]`.
        weight_b: `[adapters, layers, out, rank]`.
        indices: adapter of each row.
        weight_a: `[adapters, layers, rank, in]`; None multiplies x with `weight_b` only.
        layer_idx: which layer.
        scale: of the update.
        y_offset: first of the columns.
        y_slice_size: how many columns; -1 for all.
    """
    width = total.shape[1] if y_slice_size == -1 else y_slice_size
    for row, adapter in enumerate(indices.tolist()):
        if 0 <= adapter < weight_b.shape[0]:
            part = x[row].float()
            part = part if weight_a is None else (weight_a[adapter, layer_idx].float() @ part).to(x.dtype).float()
            update = weight_b[adapter, layer_idx].float() @ part * scale
            total[row, y_offset : y_offset + width] += update[:width].to(total.dtype)
    return total


@reference("npu_quant_conv2d", checked=True)
def quant_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    strides: list[int] | int = 1,
    pads: list[int] | int = 0,
    dilations: list[int] | int = 1,
    groups: int = 1,
    offset_x: int = 0,
    round_mode: str = "rint",
    output_dtype: int | None = None,
    bias: Tensor | None = None,
    offset: Tensor | None = None,
    input_dtype: int | None = None,
    weight_dtype: int | None = None,
) -> Tensor:
    """Convolve quantised images `[n, c, h, w]`, padded with `offset_x`, and scale each channel of the result."""
    high, wide = pads if isinstance(pads, (list, tuple)) else (pads, pads)
    image = F.pad(decode(x, input_dtype).double(), (wide, wide, high, high), value=offset_x)
    result = F.conv2d(image, decode(weight, weight_dtype).double(), None, strides, 0, dilations, groups)
    if bias is not None:
        result = result + bias.double().reshape(1, -1, 1, 1)
    result = (result * scale_of(scale).reshape(1, -1, 1, 1)).float()
    result = result if offset is None else result + offset.float()
    form = FORMATS.get(output_dtype or -1)
    return encode(result, form, round_mode) if form is not None else result.to(plain_dtype(output_dtype, torch.float16))


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "fastgelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": _silu,
}
_GATES: dict[str, Callable[[Tensor], Tensor]] = {"geglu": F.gelu, "swiglu": _silu, "reglu": torch.relu}


@reference("npu_ffn", checked=True)
def ffn(
    x: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    activation: str,
    *,
    expert_tokens: list[int] | None = None,
    expert_tokens_index: list[int] | None = None,
    bias1: Tensor | None = None,
    bias2: Tensor | None = None,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
    deq_scale1: Tensor | None = None,
    deq_scale2: Tensor | None = None,
    antiquant_scale1: Tensor | None = None,
    antiquant_scale2: Tensor | None = None,
    antiquant_offset1: Tensor | None = None,
    antiquant_offset2: Tensor | None = None,
    inner_precise: int | None = None,
    output_dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute two layers with an activation between them, of one network or of experts with own rows.

    Args:
        x: `[.., in]`, float16, bfloat16 or int8.
        weight1: `[in, hidden]`, or `[experts, in, hidden]`.
        weight2: `[hidden, out]`, or one an expert.
        activation: one of `fastgelu`, `gelu`, `relu`, `silu`, or with a gate `geglu`, `swiglu`, `reglu`.
        expert_tokens: rows of each expert.
        expert_tokens_index: where each expert's rows end.
        bias1: `[hidden]`; int32 with int8.
        bias2: `[out]`.
        scale: by which int8 quantises what is between the layers.
        offset: added to it.
        deq_scale1: by which int8 scales the first sums, `[hidden]`.
        deq_scale2: by which int8 scales the second sums.
        antiquant_scale1: scales of int8 weights with float x.
        antiquant_scale2: see above.
        antiquant_offset1: what is added to such weights first.
        antiquant_offset2: see above.
        inner_precise: not used: float32 is.
        output_dtype: of int8; None for float16.
    """
    if activation not in {**_ACTIVATIONS, **_GATES}:
        raise RuntimeError(
            f"npu_ffn: activation must be one of {', '.join({**_ACTIVATIONS, **_GATES})}: {activation!r}"
        )
    if expert_tokens is not None and expert_tokens_index is not None:
        raise RuntimeError("npu_ffn: expert_tokens and expert_tokens_index exclude each other")
    experts = weight1.dim() == 3
    if experts == (expert_tokens is None and expert_tokens_index is None):
        raise RuntimeError("npu_ffn: weights of experts, [experts, in, out], go with expert_tokens, others without")
    rows = x.flatten(0, -2)
    if expert_tokens_index is not None:
        bounds = group_bounds(expert_tokens_index, 0, "npu_ffn")
    else:
        bounds = group_bounds(expert_tokens or [rows.shape[0]], 1, "npu_ffn")
    if bounds[-1][1] != rows.shape[0]:
        raise RuntimeError(f"npu_ffn: experts have {bounds[-1][1]} rows, x has {rows.shape[0]}")
    quantised = x.dtype == torch.int8
    parameters = {
        "weight1": weight1, "weight2": weight2, "bias1": bias1, "bias2": bias2, "scale": scale, "offset": offset,
        "deq_scale1": deq_scale1, "deq_scale2": deq_scale2, "antiquant_scale1": antiquant_scale1,
        "antiquant_scale2": antiquant_scale2, "antiquant_offset1": antiquant_offset1,
        "antiquant_offset2": antiquant_offset2,
    }  # fmt: skip
    dtype = output_dtype or torch.float16 if quantised else x.dtype
    result = torch.zeros(rows.shape[0], weight2.shape[-1], dtype=dtype)
    for expert, (first, last) in enumerate(bounds):
        own = {name: value[expert] if experts and value is not None else value for name, value in parameters.items()}
        if last > first:
            result[first:last] = _two_layers(rows[first:last], activation, own).to(dtype)
    return result.view(*x.shape[:-1], -1)


def _two_layers(x: Tensor, activation: str, own: dict[str, Tensor | None]) -> Tensor:
    if x.dtype == torch.int8:
        hidden = _layer(x, own, "1")
        hidden = _activate(hidden, activation)
        scale, offset = _given(own["scale"], "scale"), own["offset"]
        codes = encode(hidden * scale.float() + (0 if offset is None else offset.float()), INT8)
        return _layer(codes, own, "2")
    weights = []
    for number in "12":
        weight, factor = _given(own[f"weight{number}"], "weight"), own[f"antiquant_scale{number}"]
        before = own[f"antiquant_offset{number}"]
        weights.append(weight.float() if factor is None else dequantized_weight(weight, factor, before, x.dtype))
    hidden = _plus(x.float() @ weights[0], own["bias1"])
    return _plus(_activate(hidden, activation).to(x.dtype).float() @ weights[1], own["bias2"])


def _layer(x: Tensor, own: dict[str, Tensor | None], number: str) -> Tensor:
    sums = _plus(product(x.float(), _given(own[f"weight{number}"], "weight").float(), True), own[f"bias{number}"])
    return (sums * scale_of(_given(own[f"deq_scale{number}"], f"deq_scale{number}")).flatten()).float()


def _plus(value: Tensor, bias: Tensor | None) -> Tensor:
    return value if bias is None else value + bias.to(value.dtype)


def _activate(hidden: Tensor, activation: str) -> Tensor:
    if activation in _ACTIVATIONS:
        return _ACTIVATIONS[activation](hidden)
    value, gate = hidden.chunk(2, -1)
    return _GATES[activation](value) * gate


@reference("npu_grouped_matmul_swiglu_quant", checked=True)
def grouped_matmul_swiglu_quant(
    x: Tensor,
    weight: Tensor,
    group_list: Tensor,
    weight_scale: Tensor,
    x_scale: Tensor,
    *,
    bias: Tensor | None = None,
    offset: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Do `grouped_matmul_swiglu_quant_v2` with ends of groups; the third result is not used by the device."""
    assist = None if bias is None else [bias]
    codes, scale = grouped_matmul_swiglu_quant_v2(
        x, [weight], [weight_scale], x_scale, group_list, weight_assist_matrix=assist
    )
    return codes, scale, torch.zeros(())


@reference("npu_grouped_matmul_swiglu_quant_v2", checked=True)
def grouped_matmul_swiglu_quant_v2(
    x: Tensor,
    weight: list[Tensor],
    weight_scale: list[Tensor],
    x_scale: Tensor,
    group_list: Tensor,
    *,
    smooth_scale: Tensor | None = None,
    weight_assist_matrix: list[Tensor] | None = None,
    bias: Tensor | None = None,
    dequant_mode: int | None = 0,
    dequant_dtype: int | None = 6,
    quant_mode: int | None = 0,
    quant_dtype: int | None = 1,
    group_list_type: int | None = 0,
    tuning_config: list[int] | None = None,
    x_dtype: int | None = None,
    weight_dtype: int | None = None,
    weight_scale_dtype: int | None = None,
    x_scale_dtype: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Multiply each group's quantised rows with its weight, apply SwiGLU and quantise again.

    Args:
        x: `[m, k]`.
        weight: one tensor `[groups, k, n]`.
        weight_scale: `[groups, n]`, `[groups, k groups, n]`, or of shared exponents `[groups, k / 64, n, 2]`.
        x_scale: `[m]`, or of shared exponents `[m, k / 64, 2]`.
        group_list: ends or sizes of groups; rows behind them are zero here.
        smooth_scale: `[groups, n / 2]` or `[groups]`, by which the activated values are multiplied (int4 x).
        weight_assist_matrix: `[groups, n]`, added to products of int8 with int4 (see `without_low_bits`).
        bias: not supported.
        dequant_mode: 0 scales of rows and columns, 1 of groups of rows of the weight, 2 shared exponents.
        dequant_dtype: not used: float32 is.
        quant_mode: 0 by token, 2 by shared exponents.
        quant_dtype: type of the result; None for int8.
        group_list_type: see `group_bounds`.
        tuning_config: not used.
        x_dtype: type of x if torch has it not.
        weight_dtype: the same of weight.
        weight_scale_dtype: the same of weight_scale.
        x_scale_dtype: the same of x_scale.
    """
    name = "npu_grouped_matmul_swiglu_quant_v2"
    if bias is not None:
        raise RuntimeError(f"{name}: bias is not supported by the device")
    form = format_of(quant_dtype if quant_dtype not in (None, 0) else 1, name)
    shared, scales = dequant_mode == 2, weight_scale[0]
    a, b = operand(x, x_dtype), operand(weight[0], weight_dtype)
    width = (scales.shape[-2] if scales.dim() == 4 else scales.shape[-1]) // 2
    activated = torch.zeros(x.shape[0], width)
    for group, (first, last) in numbered_groups(group_list, group_list_type or 0, name):
        if last <= first:
            continue
        rows = a[first:last]
        if shared:
            columns = shared_column_scales(scales[group], b.shape[-2])
            sums = (rows * shared_row_scales(x_scale[first:last], rows.shape[-1])) @ (b[group] * columns)
        else:
            mixed = x.dtype == torch.int8 and weight[0].dtype == torch.int32
            factor = _factor(scale_of(scales[group]), *b.shape[-2:])
            if factor.dim() == 2 and factor.shape[0] > 1:
                sums = (without_low_bits(rows) if mixed else rows) @ (b[group] * factor)
            else:
                sums = (product(without_low_bits(rows) if mixed else rows, b[group], True) * factor).float()
            if mixed and weight_assist_matrix:
                sums = sums + weight_assist_matrix[0][group].float()
            sums = sums * x_scale[first:last].float().reshape(-1, 1)
        value, gate = sums.chunk(2, -1)
        part = _silu(value) * gate
        activated[first:last] = part if smooth_scale is None else part * smooth_scale[group].float()
    if shared or quant_mode == 2:
        return encode_blocks(activated, form)
    return quantize_rows(activated, form)


@reference("npu_grouped_matmul_finalize_routing", checked=True)
def grouped_matmul_finalize_routing(
    x: Tensor,
    w: Tensor,
    group_list: Tensor,
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    offset: Tensor | None = None,
    pertoken_scale: Tensor | None = None,
    shared_input: Tensor | None = None,
    logit: Tensor | None = None,
    row_index: Tensor | None = None,
    dtype: torch.dtype | None = None,
    shared_input_weight: float = 1.0,
    shared_input_offset: int = 0,
    output_bs: int | None = 0,
    group_list_type: int | None = 1,
    tuning_config: list[int] | None = None,
    x_dtype: int | None = None,
    w_dtype: int | None = None,
    scale_dtype: int | None = None,
    pertoken_scale_dtype: int | None = None,
) -> Tensor:
    """Multiply each expert's rows, weight them and add them to the rows of the tokens they came from.

    Args:
        x: `[m, k]`, quantised.
        w: `[experts, k, n]`.
        group_list: sizes (`group_list_type` 1) or ends (0) of the experts' rows.
        scale: `[experts, n]`, `[experts, k groups, n]` in int64, or of shared exponents.
        bias: `[experts, n]`.
        offset: of int4 weights in groups, `[experts, k groups, n]`.
        pertoken_scale: `[m]`, or of shared exponents.
        shared_input: `[tokens, n]`, added from row `shared_input_offset` on, times `shared_input_weight`.
        logit: `[m]`, weight of each row; None for 1.
        row_index: `[m]`, row of the result that each row is added to; None for its own.
        dtype: float32.
        shared_input_weight: see above.
        shared_input_offset: see above.
        output_bs: rows of the result; 0 for m.
        group_list_type: see above.
        tuning_config: not used.
        x_dtype: type of x if torch has it not; the same of the next ones.
        w_dtype: see above.
        scale_dtype: see above.
        pertoken_scale_dtype: see above.
    """
    a, b = operand(x, x_dtype), operand(w, w_dtype)
    result = torch.zeros(output_bs or x.shape[0], b.shape[-1])
    mixed = x.dtype == torch.int8 and w.dtype == torch.int32
    for expert, (first, last) in numbered_groups(
        group_list, 1 if group_list_type is None else group_list_type, "npu_grouped_matmul_finalize_routing"
    ):
        if last <= first:
            continue
        rows, weight = a[first:last], b[expert]
        if scale_dtype == E8M0:
            per_token = _given(pertoken_scale, "pertoken_scale")[first:last]
            scales = _given(scale, "scale")[expert]
            scales = scales.transpose(0, 1) if scales.shape[0] == weight.shape[-1] != scales.shape[1] else scales
            sums = (rows * shared_row_scales(per_token, rows.shape[-1])) @ (
                weight * shared_column_scales(scales, weight.shape[0])
            )
        else:
            weight = weight if offset is None else weight + _factor(offset[expert].float(), *weight.shape)
            factor = torch.ones(()) if scale is None else _factor(scale_of(scale[expert]), *weight.shape)
            rows = without_low_bits(rows) if mixed else rows
            if factor.dim() == 2 and factor.shape[0] > 1:
                sums = rows @ (weight * factor)
            else:
                sums = (product(rows, weight, offset is None) * factor).float()
            sums = sums + bias[expert].float() if mixed and bias is not None else sums
            if pertoken_scale is not None:
                sums = sums * pertoken_scale.flatten()[first:last].float().unsqueeze(-1)
        sums = sums + bias[expert].float() if bias is not None and not mixed else sums
        sums = sums if logit is None else sums * logit.flatten()[first:last].float().unsqueeze(-1)
        where = torch.arange(first, last) if row_index is None else row_index.flatten()[first:last].long()
        result.index_add_(0, where, sums.float())
    if shared_input is not None:
        result[shared_input_offset : shared_input_offset + shared_input.shape[0]] += (
            shared_input_weight * shared_input.float()
        )
    return result
