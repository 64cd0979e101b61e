"""Quantised tensors of others: weights of eight bits with scales, made whole again a tensor at a time.

fp8 (e4m3, e5m2) with a scale for each block, as DeepSeek-V3 and LongCat's FP8 folders store it (`weight_scale_inv`, blocks
of 128 x 128), or with one for each row or the whole matrix; int8 with the same scales, without an offset.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from longcat.errors import DataError

QUANTISED = {"F8_E4M3", "F8_E5M2", "I8"}
"""Types, as safetensors names them, that mean nothing without a scale."""
_SCALES = ("_scale_inv", "_scale")
_OFFSETS = ("_offset", "_zero_point")
_ACTIVATIONS = (
    ".input_scale",
    ".input_offset",
    ".activation_scale",
    ".k_scale",
    ".v_scale",
    ".quant_bias",
    ".deq_scale",
)
_PACKED = (
    ".qweight", ".qzeros", ".g_idx", ".weight_packed", ".weight_scale_2", ".absmax", ".SCB", ".quant_map", ".scales",
    "_blocks",
)  # fmt: skip
_ROWS = 4096


def scale_of(name: str, names: Collection[str]) -> str | None:
    """Return the name of a quantised weight's scale, if it has one among `names`."""
    return next((name + end for end in _SCALES if name + end in names), None)


def offset_of(name: str, names: Collection[str]) -> str | None:
    """Return the name of a quantised weight's offset, if it has one among `names`."""
    return next((name + end for end in _OFFSETS if name + end in names), None)


def is_activation_scale(name: str) -> bool:
    """Whether a tensor belongs to quantised activations, which a model with whole weights has no use for."""
    return name.endswith(_ACTIVATIONS)


def refuse_packed(names: Collection[str], quantization: Mapping[str, Any] | None, where: str) -> None:
    """Refuse weights of fewer than eight bits, or in the layout of one program.

    Raises:
        DataError: there are such; one line names the format.
    """
    packed = sorted(name for name in names if name.endswith(_PACKED))
    if packed:
        raise DataError(f"{where}: {method(quantization)} checkpoints are not supported (it has {packed[0]})")


def method(quantization: Mapping[str, Any] | None) -> str:
    """Name a quantisation as config.json does."""
    named = quantization or {}
    return f"quantised ({named.get('quant_method') or named.get('mode') or 'unnamed'})"


def block_of(quantization: Mapping[str, Any] | None) -> tuple[int, int]:
    """Return rows and columns that share a scale; 128 x 128 where config.json does not say."""
    size = (quantization or {}).get("weight_block_size")
    if isinstance(size, list) and len(size) == 2 and all(isinstance(one, int) and one > 0 for one in size):
        return size[0], size[1]
    return 128, 128


def check_scale(name: str, shape: tuple[int, ...], scale: tuple[int, ...], block: tuple[int, int], where: str) -> None:
    """Refuse a scale that fits neither the whole matrix, nor its rows, nor its blocks.

    Raises:
        DataError: it does not fit.
    """
    fitting = {(), (1,), (1, 1), shape[:1], (*shape[:1], 1), _grid(shape, block)}
    if len(shape) != 2 or scale not in fitting:
        raise DataError(
            f"{where}: the scale of {name} {list(shape)} has shape {list(scale)}: neither one for all, nor one a row, "
            f"nor one for each block of {block[0]} x {block[1]}"
        )


def dequantise(weight: Tensor, scale: Tensor, block: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Multiply a quantised matrix by its scale, some rows at a time.

    Args:
        weight: `[rows, columns]`, fp8 or int8.
        scale: one number, one for each row, or one for each block; see `check_scale`.
        block: rows and columns of a block.
        dtype: of the result.
    """
    rows, columns = weight.shape
    scale = scale.float()
    blocks = tuple(scale.shape) == _grid((rows, columns), block)
    if scale.numel() == 1:
        scale, blocks = scale.reshape(1, 1).expand(rows, 1), False
    result = torch.empty(rows, columns, dtype=dtype)
    step = max(1, _ROWS // block[0]) * block[0]
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        if blocks:
            part = scale[begin // block[0] : math.ceil(end / block[0])]
            part = part.repeat_interleave(block[0], 0)[: end - begin].repeat_interleave(block[1], 1)[:, :columns]
        else:
            part = scale.reshape(rows, 1)[begin:end]
        result[begin:end] = weight[begin:end].float() * part
    return result


def _grid(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    return tuple(math.ceil(size / one) for size, one in zip(shape, block, strict=False))
