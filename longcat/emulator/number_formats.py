"""Low-precision number formats: how values are rounded, stored and packed, and read back as float32."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Format:
    """A number format that torch_npu's quantised operators store values in."""

    name: str
    largest: float
    """Largest finite value."""
    exponent: int = 0
    """Exponent of the largest value, by which shared scales of blocks are chosen."""
    storage: torch.dtype = torch.int8
    packed: int = 1
    """Values in one element of the storage, the first one in the lowest bits."""
    smallest: float | None = None
    """Smallest value; None for the negated largest."""

    @property
    def low(self) -> float:
        """Smallest value."""
        return -self.largest if self.smallest is None else self.smallest


INT8 = Format("int8", 127, smallest=-128)
UINT8 = Format("uint8", 255, storage=torch.uint8, smallest=0)
INT32 = Format("int32", 2**31 - 1, storage=torch.int32, smallest=-(2**31))
INT4 = Format("int4", 7, storage=torch.int32, packed=8, smallest=-8)
HIFLOAT8 = Format("hifloat8", 32768, 15, torch.uint8)
FLOAT8_E5M2 = Format("float8_e5m2", 57344, 15, torch.float8_e5m2)
FLOAT8_E4M3 = Format("float8_e4m3fn", 448, 8, torch.float8_e4m3fn)
FLOAT4_E2M1 = Format("float4_e2m1fn_x2", 6, 2, torch.uint8, 2)
FLOAT4_E1M2 = Format("float4_e1m2fn_x2", 1.75, 0, torch.uint8, 2)

FORMATS = {
    0: UINT8, 1: INT8, 3: INT32, 12: INT8, 13: UINT8, 14: INT32, 16: INT4, 23: FLOAT8_E5M2, 24: FLOAT8_E4M3,
    45: FLOAT4_E2M1, 285: INT4, 290: HIFLOAT8, 291: FLOAT8_E5M2, 292: FLOAT8_E4M3, 296: FLOAT4_E2M1, 297: FLOAT4_E1M2,
}  # fmt: skip
"""Formats by the numbers that torch (below 256) and torch_npu give their types."""
_NUMBERS = {
    torch.uint8: 0, torch.int8: 1, torch.int32: 3, torch.qint8: 12, torch.quint8: 13, torch.qint32: 14,
    torch.quint4x2: 16, torch.float8_e5m2: 23, torch.float8_e4m3fn: 24,
}  # fmt: skip
DTYPES = {5: torch.float16, 6: torch.float32, 15: torch.bfloat16, 27: torch.bfloat16}
"""Plain types by their numbers, 27 being torch_npu's own for bfloat16."""
E8M0 = 293
"""torch_npu's number of the format of shared scales: an exponent of two, less 127, in eight bits."""
_ROUNDED = ("rint", "round", "floor", "ceil", "trunc", "hybrid")


def format_of(number: int | torch.dtype | None, operator: str, default: Format | None = INT8) -> Format:
    """Return the format of a type's number; raises RuntimeError for one that no quantised operator knows."""
    if number is None and default is not None:
        return default
    number = _NUMBERS.get(number, -1) if isinstance(number, torch.dtype) else number
    if number in FORMATS:
        return FORMATS[number]
    raise RuntimeError(f"{operator}: type {number} is no quantised type; those are {sorted(FORMATS)}")


def rounded(values: Tensor, mode: str = "rint") -> Tensor:
    """Round to whole numbers: `rint` halves to even, `round` halves away from zero, or floor, ceil, trunc."""
    if mode not in _ROUNDED:
        raise RuntimeError(f"round_mode must be one of {', '.join(_ROUNDED)}, got {mode}")
    if mode in ("round", "hybrid"):
        return torch.trunc(values + torch.copysign(torch.tensor(0.5), values))
    return {"rint": torch.round, "floor": torch.floor, "ceil": torch.ceil, "trunc": torch.trunc}[mode](values)


def encode(values: Tensor, form: Format, mode: str = "rint") -> Tensor:
    """Round float values to a format, saturating at its limits, and pack them along the last dimension."""
    if form.packed > 1 and values.shape[-1] % form.packed:
        raise RuntimeError(
            f"the last dimension must be divisible by {form.packed} for {form.name}, got {values.shape[-1]}"
        )
    if form.storage in (torch.float8_e5m2, torch.float8_e4m3fn):
        return values.float().clamp(form.low, form.largest).to(form.storage)
    if form is HIFLOAT8:
        return _nearest(values.float(), _hifloat8(), "round")
    if form in (FLOAT4_E2M1, FLOAT4_E1M2):
        codes = _nearest(values.float(), _float4(form), mode)
        codes = torch.where(codes >= 128, codes - 120, codes)  # the sign is bit 3 here
        return codes[..., 0::2] | (codes[..., 1::2] << 4)
    whole = rounded(values.double() if form is INT32 else values.float(), mode).nan_to_num(0.0)
    whole = whole.clamp(form.low, form.largest)
    return pack_int4(whole.int()) if form is INT4 else whole.to(form.storage)


def decode(stored: Tensor, number: int | None = None) -> Tensor:
    """Return the float32 values of a stored tensor; `number` names a type that torch has not, or None.

    A tensor of int32 is taken as such, not as eight packed int4.
    """
    form = FORMATS.get(number) if number is not None else None
    if number == E8M0:
        return exponents(stored)
    if form is HIFLOAT8:
        return _both_signs(_hifloat8(), 128)[stored.view(torch.uint8).int()]
    if form in (FLOAT4_E2M1, FLOAT4_E1M2):
        assert form is not None
        octets = stored.view(torch.uint8).int()
        codes = torch.stack([octets & 15, octets >> 4], -1).flatten(-2)
        return _both_signs(_float4(form), 8)[codes]
    return stored.float()


def pack_int4(values: Tensor) -> Tensor:
    """Pack eight signed 4-bit numbers of the last dimension into an int32, the first in the lowest bits."""
    groups = (values.long() & 15).unflatten(-1, (-1, 8))
    total = (groups << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(total >= 2**31, total - 2**32, total).int()


def unpack_int4(packed: Tensor) -> Tensor:
    """Return the signed 4-bit numbers of int32 (eight each) or of bytes (two each), along the last dimension."""
    bits = 32 if packed.dtype == torch.int32 else 8
    parts = (packed.long().unsqueeze(-1) >> torch.arange(0, bits, 4)) & 15
    return torch.where(parts > 7, parts - 16, parts).flatten(-2).to(torch.int8)


def exponents(scales: Tensor) -> Tensor:
    """Return the powers of two that bytes in e8m0 stand for."""
    return torch.exp2((scales.view(torch.uint8).int() - 127).double()).float()


def shared_exponents(largest: Tensor, form: Format, algorithm: int = 0, type_largest: float = 0.0) -> Tensor:
    """Choose the exponents that blocks of values share, as e8m0 bytes.

    Args:
        largest: largest absolute value of each block.
        form: format of the values.
        algorithm: 0 takes the exponent of the largest value less that of the format (OCP Microscaling, 6.3); 1 and 2
            the smallest power of two by which the largest value fits into the format, or under `type_largest`.
        type_largest: see above; 0 for the format's own largest value.
    """
    mantissa, exponent = torch.frexp(largest.float())
    if algorithm == 0:
        shared = exponent - 1 - form.exponent
    else:
        mantissa, shared = torch.frexp(largest.float() / (type_largest or form.largest))
        shared = torch.where(mantissa == 0.5, shared - 1, shared)
    code = (shared + 127).clamp(0, 254)
    return torch.where(largest == 0, torch.zeros_like(code), code).to(torch.uint8)


def blocks(values: Tensor, axis: int, size: int) -> Tensor:
    """Move an axis to the end, pad it with zeros and split it: `[..., blocks, size]`."""
    moved = values.movedim(axis, -1)
    short = -moved.shape[-1] % size
    return torch.nn.functional.pad(moved, (0, short)).unflatten(-1, (-1, size))


def unblocks(split: Tensor, axis: int, length: int) -> Tensor:
    """Undo `blocks`."""
    return split.flatten(-2)[..., :length].movedim(-1, axis)


def pair_scales(scales: Tensor, axis: int) -> Tensor:
    """Lay out the scales of blocks as the device does: pairs along `axis` in a new last dimension, padded with 0."""
    padded = torch.nn.functional.pad(scales, (0, scales.shape[-1] % 2))
    pairs = padded.unflatten(-1, (-1, 2))
    return pairs.movedim(-2, axis if axis >= 0 else axis - 1)


def unpair_scales(pairs: Tensor, axis: int) -> Tensor:
    """Undo `pair_scales`: scales of blocks along the last dimension."""
    return pairs.movedim(axis if axis >= 0 else axis - 1, -2).flatten(-2)


def encode_blocks(
    values: Tensor,
    form: Format,
    axis: int = -1,
    size: int = 32,
    mode: str = "rint",
    algorithm: int = 0,
    type_largest: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Quantise blocks of an axis with shared exponents; return the packed values and the scales in pairs."""
    axis = axis % values.dim()
    split = blocks(values.float(), axis, size)
    scales = shared_exponents(split.abs().amax(-1), form, algorithm, type_largest)
    scaled = unblocks(split / exponents(scales).unsqueeze(-1), axis, values.shape[axis])
    return encode(scaled, form, mode), pair_scales(scales, axis)


def _nearest(values: Tensor, table: Tensor, mode: str) -> Tensor:
    """Return the codes of the values nearest to those in a table of the non-negative ones; the sign is bit 7."""
    order = torch.argsort(table)[: int(table.isfinite().sum())]
    sorted_table = table[order].double()
    size = values.double().abs().nan_to_num(0.0, posinf=float(sorted_table[-1])).clamp(max=float(sorted_table[-1]))
    above = torch.searchsorted(sorted_table, size.contiguous()).clamp(max=len(order) - 1)
    below = (above - 1).clamp(min=0)
    exact = sorted_table[above] == size
    up, down = sorted_table[above] - size, size - sorted_table[below]
    even = order[below] % 2 == 0
    if mode == "rint":
        lower = (down < up) | ((down == up) & even)
    elif mode in ("round", "hybrid"):
        lower = down < up
    elif mode in ("floor", "ceil"):
        lower = (values < 0) == (mode == "ceil")
    else:
        lower = torch.ones_like(exact)
    codes = order[torch.where(exact | ~lower, above, below)]
    codes = torch.where(torch.signbit(values) & (codes > 0), codes + 128, codes)
    return torch.where(values.isnan(), torch.full_like(codes, 128), codes).to(torch.uint8)


def _both_signs(table: Tensor, sign: int) -> Tensor:
    whole = torch.zeros(2 * sign)
    whole[: len(table)], whole[sign : sign + len(table)] = table, -table
    if sign == 128:
        whole[128] = torch.nan
    return whole


@functools.cache
def _float4(form: Format) -> Tensor:
    return torch.tensor({"e2m1": [0, 0.5, 1, 1.5, 2, 3, 4, 6], "e1m2": [i / 4 for i in range(8)]}[form.name[7:11]])


@functools.cache
def _hifloat8() -> Tensor:
    """Return the non-negative values of HiFloat8 by code (Luo et al., "Ascend HiFloat8 format", table 2).

    Behind the sign, a prefix says how many bits the exponent has (0 to 4); the exponent's sign comes before its bits,
    whose highest one is left out; what is left are 1 to 3 bits of mantissa. Codes 0 to 7 are powers of two.
    """
    found = [0.0] + [2.0 ** (code - 23) for code in range(1, 8)]
    for code in range(8, 128):
        if code < 16:
            bits, mantissa_bits = 0, 3
        elif code < 32:
            bits, mantissa_bits = 1, 3
        else:
            bits, mantissa_bits = (2, 3) if code < 64 else (3, 2) if code < 96 else (4, 1)
        fraction = (code & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
        field = (code >> mantissa_bits) & ((1 << bits) - 1)
        if bits:
            highest = 1 << (bits - 1)
            exponent = -(field & (highest - 1)) - highest if field & highest else field + highest
        else:
            exponent = 0
        found.append(torch.inf if code == 111 else 2.0**exponent * (1 + fraction))
    return torch.tensor(found)
