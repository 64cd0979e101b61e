"""Matrix products fused with communication over a communicator that is given by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.communicators import Communicator, communicator
from longcat.emulator.number_formats import E8M0
from longcat.emulator.operators.quantization import quantize_rows
from longcat.emulator.operators.quantized_matmul import (
    dequantized_weight,
    operand,
    plain_dtype,
    quant_matmul,
    shared_column_scales,
    shared_row_scales,
)
from longcat.emulator.reference import FLOATS, reference


def _check_types(name: str, x1: Tensor, x2: Tensor, reduce_op: str = "sum", x1_dtype: int | None = None) -> None:
    if reduce_op != "sum":
        raise RuntimeError(f"{name}: reduce_op must be 'sum', got {reduce_op!r}")
    if x1.dtype in FLOATS and x2.dtype in FLOATS and x1.dtype != x2.dtype:
        raise RuntimeError(f"{name}: x1 and x2 must have the same type, got {x1.dtype} and {x2.dtype}")
    if x1.shape[-1] != x2.shape[0] and x1.dtype in FLOATS:
        raise RuntimeError(f"{name}: x1 {list(x1.shape)} and x2 {list(x2.shape)} cannot be multiplied")


def _product(
    x1: Tensor,
    x2: Tensor,
    x1_scale: Tensor | None,
    x2_scale: Tensor | None,
    bias: Tensor | None = None,
    **types: Any,
) -> Tensor:
    """Multiply plain matrices, or quantised ones with their scales, in float32: what is summed over ranks afterwards."""
    if x2_scale is None:
        result = operand(x1, types.get("x1_dtype")) @ operand(x2, types.get("x2_dtype"))
        return result if bias is None else result + bias.float()
    shared = types.get("x2_scale_dtype") == E8M0
    flat = x2_scale if shared or (x2_scale.dim() == 2 and x2_scale.shape[0] > 1) else x2_scale.flatten()
    rows = x1_scale
    if rows is not None and not shared and rows.dim() == 2 and 1 in rows.shape:
        rows = rows.flatten()
    before = bias if bias is not None and bias.dtype == torch.int32 else None
    result = quant_matmul(
        x1, x2, flat, pertoken_scale=rows, bias=before, output_dtype=6,
        x1_dtype=types.get("x1_dtype"), x2_dtype=types.get("x2_dtype"), scale_dtype=types.get("x2_scale_dtype"),
        pertoken_scale_dtype=types.get("x1_scale_dtype"),
    )  # fmt: skip
    return result if bias is None or before is not None else result + bias.float()


def _multiply(x1: Tensor, x2: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply plain matrices as `torch.matmul` does, so that a product fused with an exchange is that beside it."""
    return x1 @ x2 if bias is None else _product(x1, x2, None, None, bias).to(x1.dtype)


@reference("npu_mm_all_reduce_base", checked=True)
def mm_all_reduce_base(
    x1: Tensor,
    x2: Tensor,
    hcom: str,
    *,
    reduce_op: str = "sum",
    bias: Tensor | None = None,
    antiquant_scale: Tensor | None = None,
    antiquant_offset: Tensor | None = None,
    x3: Tensor | None = None,
    dequant_scale: Tensor | None = None,
    pertoken_scale: Tensor | None = None,
    comm_quant_scale_1: Tensor | None = None,
    comm_quant_scale_2: Tensor | None = None,
    antiquant_group_size: int = 0,
    comm_turn: int = 0,
    group_sizes: list[int] | None = None,
    y_dtype: int | None = None,
    x1_dtype: int | None = None,
    x2_dtype: int | None = None,
    dequant_scale_dtype: int | None = None,
    pertoken_scale_dtype: int | None = None,
    comm_quant_mode: int = 0,
    comm_mode: str | None = None,
) -> Tensor:
    """Multiply, add bias and x3, and add up what all ranks have.

    Args:
        x1: `[m, k]` or `[batch, tokens, k]`.
        x2: `[k, n]`.
        hcom: the communicator's name.
        reduce_op: `sum`.
        bias: `[n]`.
        antiquant_scale: by which an int8 x2 is multiplied first.
        antiquant_offset: added to it before.
        x3: added to the product of each rank.
        dequant_scale: of the columns of a quantised product.
        pertoken_scale: of its rows.
        comm_quant_scale_1: of values on their way, which are not quantised here.
        comm_quant_scale_2: the same.
        antiquant_group_size: rows of x2 with the same scale.
        comm_turn: not used.
        group_sizes: of blocks with the same scale.
        y_dtype: type of the result.
        x1_dtype: type of x1 if torch has it not; the same of the next ones.
        x2_dtype: see above.
        dequant_scale_dtype: see above.
        pertoken_scale_dtype: see above.
        comm_quant_mode: not used.
        comm_mode: not used.
    """
    name = "npu_mm_all_reduce_base"
    _check_types(name, x1, x2, reduce_op)
    if x1.dim() not in (2, 3) or x2.dim() != 2:
        raise RuntimeError(f"{name}: x1 must have 2 or 3 dimensions and x2 two, got {x1.dim()} and {x2.dim()}")
    if x2.dtype == torch.int8 and x1.dtype in FLOATS and antiquant_scale is None:
        raise RuntimeError(f"{name}: int8 x2 with {x1.dtype} x1 needs antiquant_scale")
    rows = x1.flatten(0, -2)
    if antiquant_scale is not None:
        result = rows.float() @ dequantized_weight(x2, antiquant_scale, antiquant_offset, x1.dtype)
        result = result if bias is None else result + bias.float()
    else:
        types = {
            "x1_dtype": x1_dtype, "x2_dtype": x2_dtype, "x2_scale_dtype": dequant_scale_dtype,
            "x1_scale_dtype": pertoken_scale_dtype,
        }  # fmt: skip
        result = _product(rows, x2, pertoken_scale, dequant_scale, bias, **types)
    result = result.view(*x1.shape[:-1], -1)
    result = communicator(hcom, name).all_reduce(result if x3 is None else result + x3.float())
    if dequant_scale is None:
        return result.to(x1.dtype)
    default = torch.bfloat16 if dequant_scale.dtype == torch.bfloat16 else torch.float16
    return result.to(plain_dtype(y_dtype, default))


def _quantised_dtype(x: Tensor, x2_scale: Tensor | None, output: torch.dtype | None) -> torch.dtype:
    if x2_scale is None:
        return x.dtype
    return torch.float16 if x2_scale.dtype == torch.int64 else output or torch.bfloat16


@reference("npu_all_gather_base_mm", checked=True)
def all_gather_base_mm(
    x: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    bias: Tensor | None = None,
    x1_scale: Tensor | None = None,
    x2_scale: Tensor | None = None,
    gather_index: int = 0,
    gather_output: bool = True,
    comm_turn: int = 0,
    output_dtype: torch.dtype | None = None,
    comm_mode: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Gather the rows of x (or of x2) of all ranks and multiply; return the gathered matrix too."""
    name = "npu_all_gather_base_mm"
    _check_types(name, x, x2 if gather_index == 0 else x.T)
    group = communicator(hcom, name, world_size)
    gathered = group.all_gather(x if gather_index == 0 else x2)
    scale = None if x1_scale is None else group.all_gather(x1_scale)
    factors = (gathered, x2) if gather_index == 0 else (x, gathered)
    if x2_scale is None:
        result = _multiply(*factors, bias)
    else:
        result = _product(*factors, scale, x2_scale, bias).to(_quantised_dtype(x, x2_scale, output_dtype))
    return result, gathered if gather_output else torch.empty(0, dtype=x.dtype)


@reference("npu_all_gather_quant_mm", checked=True)
def all_gather_quant_mm(
    x: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    bias: Tensor | None = None,
    x1_scale: Tensor | None = None,
    x2_scale: Tensor | None = None,
    quant_scale: Tensor | None = None,
    gather_index: int = 0,
    gather_output: bool = True,
    y_dtype: int | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gather quantised rows of all ranks, and their scales, and multiply; the third result is empty."""
    name = "npu_all_gather_quant_mm"
    group = communicator(hcom, name, world_size)
    gathered = group.all_gather(x)
    scale = x1_scale if x1_scale is None or x1_scale.numel() == 1 else group.all_gather(x1_scale)
    result = _product(gathered, x2, scale, x2_scale, bias, **options)
    result = result if quant_scale is None else result * quant_scale.float()
    kept = gathered if gather_output else x.new_empty(0)
    return result.to(plain_dtype(y_dtype, x.dtype)), kept, torch.empty(0)


@reference("npu_mm_reduce_scatter_base", checked=True)
def mm_reduce_scatter_base(
    x: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    reduce_op: str = "sum",
    bias: Tensor | None = None,
    x1_scale: Tensor | None = None,
    x2_scale: Tensor | None = None,
    comm_turn: int = 0,
    output_dtype: torch.dtype | None = None,
    comm_mode: str | None = None,
) -> Tensor:
    """Multiply, add up what all ranks have, and keep the own part of the rows."""
    name = "npu_mm_reduce_scatter_base"
    _check_types(name, x, x2, reduce_op)
    group = communicator(hcom, name, world_size)
    if x.shape[0] % world_size:
        raise RuntimeError(f"{name}: {x.shape[0]} rows cannot be split among {world_size} ranks")
    result = group.reduce_scatter(_product(x, x2, x1_scale, x2_scale, bias))
    return result.to(_quantised_dtype(x, x2_scale, output_dtype))


@reference("npu_quant_mm_reduce_scatter", checked=True)
def quant_mm_reduce_scatter(
    x: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    reduce_op: str = "sum",
    bias: Tensor | None = None,
    x1_scale: Tensor | None = None,
    x2_scale: Tensor | None = None,
    quant_scale: Tensor | None = None,
    y_dtype: int | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Multiply quantised matrices, add up what all ranks have, keep the own rows; the second result is empty."""
    name = "npu_quant_mm_reduce_scatter"
    _check_types(name, x, x2, reduce_op)
    result = _product(x, x2, x1_scale, x2_scale, bias, **options)
    result = communicator(hcom, name, world_size).reduce_scatter(result)
    result = result if quant_scale is None else result * quant_scale.float()
    return result.to(plain_dtype(y_dtype, x.dtype)), torch.empty(0)


def _exchange(group: Communicator, rows: Tensor) -> Tensor:
    """Send the n-th part of the rows to the n-th rank."""
    share = [rows.shape[0] // group.size] * group.size
    return group.all_to_all(rows, share, share)


def _columns_to_rows(group: Communicator, result: Tensor) -> Tensor:
    """Send the n-th part of the columns to the n-th rank: `[rows, n]` becomes `[ranks * rows, n / ranks]`."""
    split = result.unflatten(1, (group.size, -1)).transpose(0, 1)
    return _exchange(group, split.flatten(0, 1))


def _rows_to_columns(group: Communicator, x: Tensor) -> Tensor:
    """Send the n-th part of the rows to the n-th rank: `[rows, k]` becomes `[rows / ranks, ranks * k]`."""
    come = _exchange(group, x)
    return come.unflatten(0, (group.size, -1)).transpose(0, 1).flatten(1)


@reference("npu_matmul_all_to_all", checked=True)
def matmul_all_to_all(
    x1: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    bias: Tensor | None = None,
    all2all_axes: list[int] | None = None,
    comm_mode: str | None = None,
) -> Tensor:
    """Multiply, and send each rank its part of the columns: `[ranks * m, n / ranks]`."""
    name = "npu_matmul_all_to_all"
    _check_types(name, x1, x2)
    _check_axes(name, all2all_axes, [-1, -2])
    group = communicator(hcom, name, world_size)
    return _columns_to_rows(group, _multiply(x1, x2, bias))


def _check_axes(name: str, axes: list[int] | None, allowed: list[int]) -> None:
    if axes and list(axes) != allowed:
        raise RuntimeError(f"{name}: all2all_axes must be {allowed} or None, got {list(axes)}")


@reference("npu_quant_matmul_all_to_all", checked=True)
def quant_matmul_all_to_all(
    x1: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    bias: Tensor | None = None,
    x1_scale: Tensor | None = None,
    x2_scale: Tensor | None = None,
    *,
    y_dtype: int | None = None,
    all2all_axes: list[int] | None = None,
    **options: Any,
) -> Tensor:
    """Multiply quantised matrices, and send each rank its part of the columns."""
    name = "npu_quant_matmul_all_to_all"
    _check_axes(name, all2all_axes, [-1, -2])
    group = communicator(hcom, name, world_size)
    result = _product(x1, x2, x1_scale, x2_scale, bias, **options).to(plain_dtype(y_dtype, torch.float32))
    return _columns_to_rows(group, result)


@reference("npu_all_to_all_matmul", checked=True)
def all_to_all_matmul(
    x1: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    bias: Tensor | None = None,
    all2all_axes: list[int] | None = None,
    all2all_out_flag: bool = True,
    comm_mode: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Exchange rows for columns, `[m / ranks, ranks * k]`, and multiply; return what was exchanged too."""
    name = "npu_all_to_all_matmul"
    _check_axes(name, all2all_axes, [-2, -1])
    whole = _rows_to_columns(communicator(hcom, name, world_size), x1)
    _check_types(name, whole, x2)
    return _multiply(whole, x2, bias), whole if all2all_out_flag else None


@reference("npu_all_to_all_quant_matmul", checked=True)
def all_to_all_quant_matmul(
    x1: Tensor,
    x2: Tensor,
    hcom: str,
    world_size: int,
    *,
    all2all_out_flag: bool = True,
    bias: Tensor | None = None,
    x1_scale: Tensor | None = None,
    x2_scale: Tensor | None = None,
    x1_quant_mode: int | None = None,
    y_dtype: int | None = None,
    all2all_axes: list[int] | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Exchange rows for columns, quantise float rows, and multiply with a quantised matrix."""
    name = "npu_all_to_all_quant_matmul"
    _check_axes(name, all2all_axes, [-2, -1])
    group = communicator(hcom, name, world_size)
    whole = _rows_to_columns(group, x1)
    factor, scale = whole, x1_scale
    if whole.dtype in FLOATS:
        factor, scale = quantize_rows(whole.float())
    result = _product(factor, x2, scale, x2_scale, bias, **options).to(plain_dtype(y_dtype, torch.float32))
    return result, whole if all2all_out_flag else None


def _by_expert(rows: Tensor, counts: list[int], ranks: int, back: bool = False) -> Tensor:
    """Bring rows that are ordered by rank, then expert, into the order by expert, then rank, or back."""
    experts = len(counts) // ranks
    order = torch.arange(len(counts)).view(ranks, experts).T.flatten().tolist()  # of the parts, by expert
    if back:
        parts = rows.split([counts[i] for i in order])
        return torch.cat([parts[order.index(i)] for i in range(len(counts))])
    parts = rows.split(counts)
    return torch.cat([parts[i] for i in order])


def _per_rank(counts: list[int], ranks: int) -> list[int]:
    return torch.tensor(counts).view(ranks, -1).sum(1).tolist()


def _grouped(rows: Tensor, weight: Tensor, counts: list[int], ranks: int, multiply: Any) -> Tensor:
    """Multiply the rows of each expert, which are ordered by expert, with its weight."""
    sizes = torch.tensor(counts).view(ranks, -1).sum(0).tolist()
    if len(sizes) != weight.shape[0]:
        raise RuntimeError(f"{len(sizes)} experts have counts, {weight.shape[0]} have weights")
    start, parts = 0, []
    for expert, size in enumerate(sizes):
        parts.append(multiply(rows[start : start + size], weight[expert], expert, slice(start, start + size)))
        start += size
    return torch.cat(parts)


def _check_counts(name: str, send_counts: list[int], recv_counts: list[int], rows: int, size: int) -> None:
    if len(send_counts) != len(recv_counts) or len(send_counts) % size:
        raise RuntimeError(
            f"{name}: send_counts and recv_counts need one entry for each expert of each of {size} ranks"
        )
    if sum(send_counts) != rows:
        raise RuntimeError(f"{name}: send_counts add up to {sum(send_counts)}, gmm_x has {rows} rows")


def _beside(mm_x: Tensor | None, mm_weight: Tensor | None, transposed: bool) -> Tensor | None:
    if mm_x is None or mm_weight is None:
        return None
    return mm_x @ (mm_weight.T if transposed else mm_weight)


@reference("npu_alltoallv_gmm", checked=True)
def alltoallv_gmm(
    gmm_x: Tensor,
    gmm_weight: Tensor,
    hcom: str,
    ep_world_size: int,
    send_counts: list[int],
    recv_counts: list[int],
    *,
    send_counts_tensor: Tensor | None = None,
    recv_counts_tensor: Tensor | None = None,
    mm_x: Tensor | None = None,
    mm_weight: Tensor | None = None,
    trans_gmm_weight: bool = False,
    trans_mm_weight: bool = False,
    permute_out_flag: bool = False,
    comm_mode: str | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Send tokens to the ranks of their experts, order them by expert and multiply with the experts' weights.

    Args:
        gmm_x: `[tokens, k]`, ordered by rank, then by expert of the rank.
        gmm_weight: `[experts of this rank, k, n]`.
        hcom: the communicator's name.
        ep_world_size: its ranks.
        send_counts: tokens for each expert of each rank.
        recv_counts: tokens from each rank for each expert of this one.
        send_counts_tensor: not supported by the device.
        recv_counts_tensor: not supported by the device.
        mm_x: input of a product beside it, of a shared expert.
        mm_weight: weight of this product.
        trans_gmm_weight: whether weights are `[experts, n, k]`.
        trans_mm_weight: the same of the product beside.
        permute_out_flag: whether to return the ordered tokens.
        comm_mode: not used.
    """
    name = "npu_alltoallv_gmm"
    group = communicator(hcom, name, ep_world_size)
    sent, received = list(send_counts), list(recv_counts)
    _check_counts(name, sent, received, gmm_x.shape[0], group.size)
    come = group.all_to_all(gmm_x, _per_rank(sent, group.size), _per_rank(received, group.size))
    ordered = _by_expert(come, received, group.size)
    weight = gmm_weight.mT if trans_gmm_weight else gmm_weight
    result = _grouped(ordered, weight, received, group.size, lambda a, b, expert, rows: a @ b)
    ours = ordered if permute_out_flag else None
    return result, _beside(mm_x, mm_weight, trans_mm_weight), ours


@reference("npu_gmm_alltoallv", checked=True)
def gmm_alltoallv(
    gmm_x: Tensor,
    gmm_weight: Tensor,
    hcom: str,
    ep_world_size: int,
    send_counts: list[int],
    recv_counts: list[int],
    *,
    send_counts_tensor: Tensor | None = None,
    recv_counts_tensor: Tensor | None = None,
    mm_x: Tensor | None = None,
    mm_weight: Tensor | None = None,
    trans_gmm_weight: bool = False,
    trans_mm_weight: bool = False,
    comm_mode: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Multiply tokens that are ordered by expert with the experts' weights and send them back to their ranks."""
    name = "npu_gmm_alltoallv"
    group = communicator(hcom, name, ep_world_size)
    sent, received = list(send_counts), list(recv_counts)
    _check_counts(name, sent, received, gmm_x.shape[0], group.size)
    weight = gmm_weight.mT if trans_gmm_weight else gmm_weight
    result = _grouped(gmm_x, weight, sent, group.size, lambda a, b, expert, rows: a @ b)
    ordered = _by_expert(result, sent, group.size, back=True)
    back = group.all_to_all(ordered, _per_rank(sent, group.size), _per_rank(received, group.size))
    return back, _beside(mm_x, mm_weight, trans_mm_weight)


def _quantised(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    mode: int | None,
    expert: int,
    rows: slice,
    a_dtype: int | None,
    b_dtype: int | None,
) -> Tensor:
    """Multiply one expert's rows: scales of all (mode 1), or shared exponents (6)."""
    left, right = operand(a, a_dtype), operand(b, b_dtype)
    if mode == 6:
        columns = b_scale[expert] if b_scale.dim() == 4 else b_scale
        return (left * shared_row_scales(a_scale[rows], left.shape[-1])) @ (
            right * shared_column_scales(columns, right.shape[-2])
        )
    if mode != 1:
        raise NotImplementedError(
            f"quantisation mode {mode} of products with communication is not emulated: 1 and 6 are"
        )
    return left @ right * a_scale.float() * (b_scale[expert] if b_scale.numel() > 1 else b_scale).float()


@reference("npu_alltoallv_quant_gmm", checked=True)
def alltoallv_quant_gmm(
    gmm_x: Tensor,
    gmm_weight: Tensor,
    gmm_x_scale: Tensor,
    gmm_weight_scale: Tensor,
    hcom: str,
    ep_world_size: int,
    send_counts: list[int],
    recv_counts: list[int],
    gmm_y_dtype: int,
    *,
    mm_x: Tensor | None = None,
    mm_weight: Tensor | None = None,
    mm_x_scale: Tensor | None = None,
    mm_weight_scale: Tensor | None = None,
    gmm_x_quant_mode: int | None = None,
    mm_x_quant_mode: int | None = None,
    permute_out_flag: bool = False,
    mm_y_dtype: int | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Do `alltoallv_gmm` with quantised matrices; scales of rows travel with them."""
    name = "npu_alltoallv_quant_gmm"
    group = communicator(hcom, name, ep_world_size)
    sent, received = list(send_counts), list(recv_counts)
    _check_counts(name, sent, received, gmm_x.shape[0], group.size)
    per_rank = _per_rank(sent, group.size), _per_rank(received, group.size)
    ordered = _by_expert(group.all_to_all(gmm_x, *per_rank), received, group.size)
    scale = gmm_x_scale
    if gmm_x_quant_mode == 6:
        scale = _by_expert(group.all_to_all(gmm_x_scale, *per_rank), received, group.size)
    types = options.get("gmm_x_dtype"), options.get("gmm_weight_dtype")

    def multiply(a: Tensor, b: Tensor, expert: int, rows: slice) -> Tensor:
        return _quantised(a, b, scale, gmm_weight_scale, gmm_x_quant_mode, expert, rows, *types)

    result = _grouped(ordered, gmm_weight, received, group.size, multiply)
    beside = _quantised_beside(mm_x, mm_weight, mm_x_scale, mm_weight_scale, mm_x_quant_mode, mm_y_dtype, options)
    return result.to(plain_dtype(gmm_y_dtype, torch.float16)), beside, ordered if permute_out_flag else None


def _quantised_beside(
    mm_x: Tensor | None,
    mm_weight: Tensor | None,
    mm_x_scale: Tensor | None,
    mm_weight_scale: Tensor | None,
    mode: int | None,
    dtype: int | None,
    options: dict[str, Any],
) -> Tensor | None:
    if mm_x is None or mm_weight is None:
        return None
    if mm_x_scale is None or mm_weight_scale is None:
        raise RuntimeError("mm_x needs mm_x_scale and mm_weight_scale")
    types = options.get("mm_x_dtype"), options.get("mm_weight_dtype")
    result = _quantised(mm_x, mm_weight, mm_x_scale, mm_weight_scale, mode, 0, slice(None), *types)
    return result.to(plain_dtype(dtype, torch.float16))


@reference("npu_quant_gmm_alltoallv", checked=True)
def quant_gmm_alltoallv(
    gmm_x: Tensor,
    gmm_weight: Tensor,
    gmm_x_scale: Tensor,
    gmm_weight_scale: Tensor,
    hcom: str,
    ep_world_size: int,
    send_counts: list[int],
    recv_counts: list[int],
    gmm_y_dtype: int,
    *,
    mm_x: Tensor | None = None,
    mm_weight: Tensor | None = None,
    mm_x_scale: Tensor | None = None,
    mm_weight_scale: Tensor | None = None,
    gmm_x_quant_mode: int | None = None,
    mm_x_quant_mode: int | None = None,
    mm_y_dtype: int | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Do `gmm_alltoallv` with quantised matrices."""
    name = "npu_quant_gmm_alltoallv"
    group = communicator(hcom, name, ep_world_size)
    sent, received = list(send_counts), list(recv_counts)
    _check_counts(name, sent, received, gmm_x.shape[0], group.size)
    types = options.get("gmm_x_dtype"), options.get("gmm_weight_dtype")

    def multiply(a: Tensor, b: Tensor, expert: int, rows: slice) -> Tensor:
        return _quantised(a, b, gmm_x_scale, gmm_weight_scale, gmm_x_quant_mode, expert, rows, *types)

    result = _grouped(gmm_x, gmm_weight, sent, group.size, multiply).to(plain_dtype(gmm_y_dtype, torch.float16))
    ordered = _by_expert(result, sent, group.size, back=True)
    back = group.all_to_all(ordered, _per_rank(sent, group.size), _per_rank(received, group.size))
    beside = _quantised_beside(mm_x, mm_weight, mm_x_scale, mm_weight_scale, mm_x_quant_mode, mm_y_dtype, options)
    return back, beside
