"""Lossless compression of floats, whose exponents take few values."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.reference import check, reference

_LEAST, _MULTIPLE, _HEADER = 32768, 64, 512
"""Elements that a tensor has at least, what their number is a multiple of, and least bytes of the fixed part."""


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(torch.uint8)


def _parts(name: str, floats: Tensor, mantissa: Tensor, fixed: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bytes of floats `[elements, width]`, of which the last has the exponent, and those of the mantissas."""
    count, width = floats.numel(), floats.dtype.itemsize
    same = {floats.dtype, mantissa.dtype, fixed.dtype, var.dtype}
    check(len(same) == 1 and width in (2, 4), name, "all tensors must be of one type: float16, bfloat16 or float32")
    check(
        count >= _LEAST and count % _MULTIPLE == 0, name, f"{count} elements: a multiple of 64 from 32768 is required"
    )
    check(mantissa.numel() * width == count * (width - 1), name, "mantissa must have a byte an element less than input")
    check(fixed.numel() * width >= _HEADER, name, "fixed must have at least 512 bytes")
    # the exponents are stored as they are: that this fits is less than a device asks for
    check((fixed.numel() + var.numel()) * width >= count, name, "fixed and var have less than a byte an element")
    return _bytes(floats).view(count, width), _bytes(mantissa).view(count, width - 1)


@reference("npu_hans_encode.out")
def hans_encode(
    x: Tensor, statistic: bool = False, reshuff: bool = False, *, out: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split floats in mantissas and exponents, and count those; decoding gives them back bit by bit.

    The format of a device's `fixed` and `var` is not documented; here they have the exponents, one byte each, one after
    the other, so nothing gets smaller.

    Args:
        x: float16, bfloat16 or float32; a multiple of 64 elements, at least 32768.
        statistic: whether to count the exponents' bytes, into `pdf`.
        reshuff: whether everything is to be in `fixed`.
        out: `pdf` `[256]` of int32, `mantissa`, `fixed` and `var`, which are written to.
    """
    pdf, mantissa, fixed, var = out
    name = "npu_hans_encode"
    values, mantissas = _parts(name, x.contiguous(), mantissa, fixed, var)
    exponents, room = values[:, -1], _bytes(fixed)
    check(pdf.dtype == torch.int32 and pdf.numel() == 256, name, "pdf must have 256 elements of int32")
    check(not reshuff or len(room) >= len(exponents), name, "fixed must have at least a byte an element with reshuff")
    if statistic:
        pdf.copy_(torch.bincount(exponents.int(), minlength=256).view_as(pdf))
    mantissas.copy_(values[:, :-1])
    first = exponents[: len(room)]
    room[: len(first)] = first
    rest = exponents[len(first) :]
    _bytes(var)[: len(rest)] = rest
    return pdf, mantissa, fixed, var


@reference("npu_hans_decode.out")
def hans_decode(
    mantissa: Tensor, fixed: Tensor, var: Tensor, pdf: Tensor, reshuff: bool = False, *, out: Tensor
) -> Tensor:
    """Join what `npu_hans_encode` made of floats, into `out`."""
    values, mantissas = _parts("npu_hans_decode", out, mantissa, fixed, var)
    values[:, :-1] = mantissas
    values[:, -1] = torch.cat([_bytes(fixed), _bytes(var)])[: len(values)]
    return out
