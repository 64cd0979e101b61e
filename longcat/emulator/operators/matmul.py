"""torch_npu's own plain products and transpositions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.operators.groups import numbered_groups
from longcat.emulator.reference import reference


@reference("npu_grouped_matmul_add_")
def grouped_matmul_add_(
    total: Tensor, x: Tensor, weight: Tensor, group_list: Tensor, *, group_list_type: int = 0, **others: Any
) -> Tensor:
    """Add the groups' weight gradients to total: `[groups, in, out]` float32, x `[rows, in]`, weight `[rows, out]`."""
    for group, (first, last) in numbered_groups(group_list, group_list_type, "npu_grouped_matmul_add_"):
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
