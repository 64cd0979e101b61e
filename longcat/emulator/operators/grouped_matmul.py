"""Products of groups of rows, each with its own matrix, plain and quantised."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.emulator.number_formats import E8M0
from longcat.emulator.operators.groups import group_bounds, numbered_groups
from longcat.emulator.operators.quantization import offset_of, scale_of
from longcat.emulator.operators.quantized_matmul import (
    dequantized_weight,
    finish,
    natural_order,
    operand,
    packed_float4,
    plain_dtype,
    product,
    shared_column_scales,
    shared_row_scales,
    without_low_bits,
)
from longcat.emulator.reference import FLOATS, check, check_types, reference

_NAME = "npu_grouped_matmul"
_ROW_MULTIPLE = 32
"""Rows of a group that are multiplied in bfloat16 are made a multiple of this."""
MOST_TENSORS, INNER_LIMIT = 128, 65536
"""Limits of lists and of last sizes."""
_ACTIVATIONS = {
    0: lambda x: x,
    1: torch.relu,
    2: lambda x: F.gelu(x, approximate="tanh"),
    4: lambda x: x * torch.sigmoid(1.702 * x),
    5: F.silu,
}


@reference("npu_grouped_matmul", "npu_grouped_matmul.List")
def grouped_matmul(
    x: list[Tensor],
    weight: list[Tensor],
    *,
    bias: list[Tensor] | None = None,
    group_list: Any = None,
    split_item: int | None = 0,
    group_type: int | None = None,
    group_list_type: int | None = 0,
    act_type: int | None = 0,
    output_dtype: int | torch.dtype | None = None,
    x_dtype: int | None = None,
    weight_dtype: int | None = None,
    scale_dtype: int | None = None,
    per_token_scale_dtype: int | None = None,
    tuning_config: list[int] | None = None,
    **scales: list[Tensor] | None,
) -> list[Tensor]:
    """Compute one matrix product per group.

    Args:
        x: one tensor, or one a group.
        weight: `[groups, in, out]`, or one `[in, out]` a group.
        bias: one `[groups, out]`, or one `[out]` a group.
        group_list: where groups end (`group_list_type` 0) or their sizes (1, 2), along x's rows (`group_type` 0) or
            along the dimension that is summed (2): x `[in, rows]`, weight `[rows, out]`.
        split_item: 0 and 1 give a result a group, 2 and 3 one. Rows behind the last group are zero here; a device
            leaves them as they are.
        group_type: see above; -1 for x in a list without groups.
        group_list_type: see above.
        act_type: 0 none, 1 ReLU, 2 GELU (tanh), 4 fast GELU, 5 SiLU.
        output_dtype: type of the result; None for that of x.
        x_dtype: type of x if torch has it not; the same of the next ones.
        weight_dtype: see above.
        scale_dtype: see above.
        per_token_scale_dtype: see above.
        tuning_config: not used.
        scales: `scale` of columns, `per_token_scale` of rows, `antiquant_scale` and `antiquant_offset` of weights that
            are scaled back first, one a group or one for all.
    """
    _check(x, weight, bias, group_list, split_item or 0, group_type, group_list_type or 0, act_type or 0, scales)
    own = _Parameters(bias, scales, x_dtype, weight_dtype, scale_dtype, per_token_scale_dtype)
    dtype = plain_dtype(output_dtype, x[0].dtype)
    weight = [natural_order(matrix) for matrix in weight]
    single = len(weight) == 1 and weight[0].dim() > 2
    if group_type == 2 and group_list is not None:
        bounds = group_bounds(group_list, group_list_type or 0, _NAME)
        whole = x[0]
        parts = [
            _product(_aligned(whole[:, a:b].mT).mT, _aligned(weight[0][a:b] if len(weight) == 1 else weight[i]), dtype)
            for i, (a, b) in enumerate(bounds)
        ]
        return [torch.stack(parts)] if (split_item or 0) >= 2 else parts
    if len(x) > 1 or group_list is None:
        rows, numbers = [(0, part.shape[0]) for part in x], list(range(len(x)))
        inputs = x
    else:
        groups = numbered_groups(group_list, group_list_type or 0, _NAME)
        numbers, rows = [number for number, _ in groups], [span for _, span in groups]
        end, count = rows[-1][1] if rows else 0, x[0].shape[0]
        if end > count or (isinstance(group_list, (list, tuple)) and end != count):
            raise RuntimeError(f"{_NAME}: groups end at {end}, and x has {count} rows")
        inputs = [x[0][a:b] for a, b in rows]
    count = weight[0].shape[0] if single else len(weight)
    if len(inputs) != count:
        raise RuntimeError(f"{_NAME}: {len(inputs)} groups of x meet {count} weights")
    parts = []
    for group, span, part in zip(numbers, rows, inputs, strict=True):
        matrix = weight[0][group] if single else weight[group]
        if part.is_floating_point() and part.dtype == matrix.dtype and not bias and not any(scales.values()):
            parts.append(_product(_aligned(part), matrix, dtype)[: len(part)])
            continue
        result = own.multiply(part, matrix, group, span if len(x) == 1 else None, single)
        parts.append(finish(_ACTIVATIONS[act_type or 0](result) if act_type else result, dtype))
    if (split_item or 0) < 2:
        return parts
    behind = sum(part.shape[0] for part in x) - sum(part.shape[0] for part in parts)
    return [torch.cat([*parts, torch.zeros(behind, parts[0].shape[-1], dtype=dtype)])]


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply unscaled factors; the CPU's own product of bfloat16 sums in float32 and is quicker."""
    return a @ b if a.dtype == b.dtype == dtype == torch.bfloat16 else (a.float() @ b.float()).to(dtype)


def _aligned(x: Tensor) -> Tensor:
    """Add rows of zeros: the CPU makes a kernel of its own for each number of rows that it multiplies in bfloat16."""
    spare = -len(x) % _ROW_MULTIPLE
    return F.pad(x, (0, 0, 0, spare)) if spare and x.dtype == torch.bfloat16 else x


def _check(
    x: list[Tensor],
    weight: list[Tensor],
    bias: list[Tensor] | None,
    group_list: Any,
    split_item: int,
    group_type: int | None,
    group_list_type: int,
    act_type: int,
    scales: Any,
) -> None:
    def need(condition: bool, reason: str) -> None:
        check(condition, _NAME, reason)

    need(bool(x) and bool(weight), "x and weight must not be empty")
    need(max(len(x), len(weight)) <= MOST_TENSORS, f"lists have at most {MOST_TENSORS} tensors, got {len(weight)}")
    for tensor in (*x, *weight):
        need(tensor.shape[-1] < INNER_LIMIT, f"last sizes must be below {INNER_LIMIT}, got {tensor.shape[-1]}")
    listed = isinstance(group_list, (list, tuple))
    need(group_type is not None or listed, "Requires manual passing group_type, current is None.")
    need(group_type in (None, -1, 0, 2), f"The group type must be -1, 0 or 2, got {group_type}.")
    need(split_item in (0, 1, 2, 3), f"split_item must be 0 to 3, got {split_item}")
    need(group_list is not None or len(x) > 1 or group_type in (None, -1), f"group_type {group_type} needs group_list")
    if isinstance(group_list, Tensor):
        check_types(_NAME, (torch.int64,), group_list=group_list)
    need(
        group_list_type in (0, 1) or (group_list_type == 2 and x[0].dtype == torch.int8 and group_type == 0),
        f"group_list_type must be 0 or 1, or 2 with int8 and group_type 0, got {group_list_type} and {x[0].dtype}",
    )
    need(act_type in _ACTIVATIONS, f"act_type must be one of {', '.join(map(str, _ACTIVATIONS))}, got {act_type}")
    for name in ("offset", "activation_input", "activation_quant_scale", "activation_quant_offset"):
        need(not scales.get(name), f"{name} must be None: the device does not support it")
    need(
        not act_type or bool(scales.get("per_token_scale")),
        "only products with per_token_scale can be followed by an activation",
    )
    if x[0].dtype not in FLOATS:
        return
    for name in ("scale", "per_token_scale"):
        need(not scales.get(name), f"{name} is for x of 8 or 4 bits, and x is {x[0].dtype}")
    if not scales.get("antiquant_scale"):
        for tensor in weight:
            check_types(_NAME, (x[0].dtype,), weight=tensor)
    for tensor in bias or ():
        check_types(_NAME, (torch.float16 if x[0].dtype == torch.float16 else torch.float32,), bias=tensor)


class _Parameters:
    """Scales and biases of groups, and the number formats of the factors."""

    def __init__(
        self,
        bias: list[Tensor] | None,
        scales: dict[str, list[Tensor] | None],
        x_dtype: int | None,
        weight_dtype: int | None,
        scale_dtype: int | None,
        per_token_scale_dtype: int | None,
    ) -> None:
        self.bias, self.scales = bias, scales
        self.x_dtype, self.weight_dtype = x_dtype, weight_dtype
        self.shared = scale_dtype == E8M0 or per_token_scale_dtype == E8M0

    def of(self, name: str, group: int, single: bool) -> Tensor | None:
        """Return a group's scale or bias: an entry of the list, or of the one tensor in it."""
        given = self.bias if name == "bias" else self.scales.get(name)
        if not given:
            return None
        return given[0][group] if single or (len(given) == 1 and group > 0) else given[group]

    def multiply(self, x: Tensor, weight: Tensor, group: int, rows: tuple[int, int] | None, single: bool) -> Tensor:
        """Return one group's product in float32."""
        bias, scale = self.of("bias", group, single), self.of("scale", group, single)
        back, offset = self.of("antiquant_scale", group, single), self.of("antiquant_offset", group, single)
        tokens = self.scales.get("per_token_scale")
        per_token = None if not tokens else tokens[0][slice(*rows)] if rows else tokens[group]
        a = operand(x, self.x_dtype)
        if back is not None:
            if self.shared:
                values = packed_float4(weight) if weight.dtype == torch.float32 else operand(weight, self.weight_dtype)
                factor = shared_column_scales(back, values.shape[-2])
                result = (a if per_token is None else a * shared_row_scales(per_token, a.shape[-1])) @ (values * factor)
            else:
                result = a @ dequantized_weight(weight, back, offset, x.dtype, self.weight_dtype)
            return result if bias is None else result + bias.float()
        b = operand(weight, self.weight_dtype)
        if scale is None:
            result = product(a, b, x.dtype in (torch.int8, torch.int32))
            return result if bias is None else result + bias.float()
        if self.shared and per_token is not None:
            result = (a * shared_row_scales(per_token, a.shape[-1])) @ (b * shared_column_scales(scale, b.shape[-2]))
            return result if bias is None else result + bias.float()
        if x.dtype == torch.int8 and weight.dtype == torch.int32:  # with int4: see without_low_bits
            factor = scale_of(scale).reshape(-1, b.shape[-1])
            result = without_low_bits(a) @ (b * factor.repeat_interleave(b.shape[-2] // factor.shape[0], 0))
            result = result if bias is None else result + bias.float()
            return result if per_token is None else result * per_token.float().reshape(-1, 1)
        if scale.dim() == 2 and scale.shape[0] > 1:
            result = a @ (b * scale_of(scale).repeat_interleave(b.shape[-2] // scale.shape[0], 0))
        else:
            sums = product(a, b, x.dtype in (torch.int8, torch.int32))
            if bias is not None and bias.dtype == torch.int32:
                sums, bias = sums + bias, None
            result = sums * scale_of(scale).flatten() + offset_of(scale).flatten()
        result = result if per_token is None else result * per_token.float().reshape(-1, 1)
        return (result if bias is None else result + bias.float()).float()
