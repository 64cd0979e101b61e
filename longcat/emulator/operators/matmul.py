"""Grouped matrix products, and torch_npu's own plain products and transpositions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import reference


@reference("npu_grouped_matmul", "npu_grouped_matmul.List")
def grouped_matmul(
    x: list[Tensor],
    weight: list[Tensor],
    *,
    bias: list[Tensor] | None = None,
    group_list: Any = None,
    split_item: int = 0,
    group_type: int | None = None,
    group_list_type: int = 0,
    **others: Any,
) -> list[Tensor]:
    """Compute one matrix product per group.

    Args:
        x: one tensor, or one a group (`group_type` -1).
        weight: `[groups, in, out]`, or one `[in, out]` a group.
        bias: one `[groups, out]`, or one `[out]` a group.
        group_list: where groups end (`group_list_type` 0) or their sizes (1), along x's rows (`group_type` 0) or along
            the dimension that is summed (2): x `[in, rows]`, weight `[rows, out]`.
        split_item: 0 and 1 give a result a group, 2 and 3 one. Rows behind the last group are zero here; a device
            leaves them as they are.
        group_type: see above.
        group_list_type: see above.
        others: of quantised products: not emulated.
    """
    for name, value in others.items():
        if name != "tuning_config" and not (value is None or value == 0 or value == []):
            raise NotImplementedError(f"npu_grouped_matmul: {name} is not emulated")
    kind = -1 if group_type is None else group_type
    if kind == -1 and group_list is None:
        return [_plus(a @ b, bias, i) for i, (a, b) in enumerate(zip(x, weight, strict=True))]
    if len(x) != 1 or group_list is None:
        raise NotImplementedError("npu_grouped_matmul: several x with a group_list are not emulated")
    ends = _ends(group_list, group_list_type)
    starts = [0, *ends[:-1]]
    rows = x[0]
    if kind == 2:
        parts = [rows[:, a:b] @ weight[0][a:b] for a, b in zip(starts, ends, strict=True)]
        return [torch.stack(parts)] if split_item >= 2 else parts
    weights = list(weight[0]) if len(weight) == 1 and weight[0].dim() == 3 else weight
    parts = [_plus(rows[a:b] @ weights[i], bias, i) for i, (a, b) in enumerate(zip(starts, ends, strict=True))]
    if split_item < 2:
        return parts
    behind = rows.new_zeros(rows.shape[0] - ends[-1], weights[0].shape[-1])
    return [torch.cat([*parts, behind])]


@reference("npu_grouped_matmul_add_")
def grouped_matmul_add_(
    total: Tensor, x: Tensor, weight: Tensor, group_list: Tensor, *, group_list_type: int = 0, **others: Any
) -> Tensor:
    """Add the groups' weight gradients to total: `[groups, in, out]` float32, x `[rows, in]`, weight `[rows, out]`."""
    ends = _ends(group_list, group_list_type)
    for group, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        total[group] += x[first:last].float().mT @ weight[first:last].float()
    return total


@reference("npu_grouped_matmul_add")
def grouped_matmul_add(total: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Return the sum of `grouped_matmul_add_` as a new tensor."""
    return grouped_matmul_add_(total.clone(), *arguments, **options)


@reference("npu_linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute a linear layer as torch does."""
    return torch.nn.functional.linear(x, weight, bias)


@reference("npu_linear_backward")
def linear_backward(d_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and weight."""
    return d_y @ weight, d_y.flatten(0, -2).mT @ x.flatten(0, -2)


@reference("npu_bmmV2")
def bmm(x: Tensor, y: Tensor, output_sizes: list[int]) -> Tensor:
    """Compute batched matrix products as torch does, summed to `output_sizes` if these are given."""
    result = x @ y
    return result.sum_to_size(output_sizes) if output_sizes else result


@reference("npu_bmm_v2_mat1_backward")
def bmm_mat1_backward(gradient: Tensor, x: Tensor, y: Tensor, size: list[int]) -> Tensor:
    """Return the gradient of the first factor, of this size: what was broadcast is summed."""
    return (gradient @ y.mT).sum_to_size(size)


@reference("npu_bmm_v2_mat2_backward")
def bmm_mat2_backward(gradient: Tensor, x: Tensor, y: Tensor, size: list[int]) -> Tensor:
    """Return the gradient of the second factor, of this size."""
    return (x.mT @ gradient).sum_to_size(size)


@reference("npu_transpose")
def transpose(x: Tensor, perm: list[int], require_contiguous: bool = True) -> Tensor:
    """Return a contiguous copy with permuted dimensions."""
    return x.permute(perm)


@reference("npu_confusion_transpose")
def confusion_transpose(x: Tensor, perm: list[int], shape: list[int], transpose_first: bool) -> Tensor:
    """Permute and reshape, in the order that `transpose_first` selects."""
    return x.permute(perm).reshape(shape) if transpose_first else x.reshape(shape).permute(perm)


@reference("npu_confusion_transpose_backward")
def confusion_transpose_backward(d_y: Tensor, perm: list[int], shape: list[int], transpose_first: bool) -> Tensor:
    """Return the gradient of x; `shape` is the shape of x.

    `transpose_first` says what is done to the gradient: torch_npu passes the opposite of what was done to x.
    """
    back = [perm.index(i) for i in range(len(perm))]
    if transpose_first:
        return d_y.permute(back).reshape(shape)
    return d_y.reshape([shape[i] for i in perm]).permute(back)


def _ends(group_list: Any, group_list_type: int) -> list[int]:
    values = group_list if isinstance(group_list, Tensor) else torch.tensor(group_list)
    if group_list_type not in (0, 1):
        raise NotImplementedError(f"npu_grouped_matmul: group_list_type {group_list_type} is not emulated")
    return (values.cumsum(0) if group_list_type == 1 else values).tolist()


def _plus(product: Tensor, bias: list[Tensor] | None, group: int) -> Tensor:
    if not bias:
        return product
    return product + (bias[0][group] if len(bias) == 1 and bias[0].dim() == 2 else bias[group]).to(product.dtype)
