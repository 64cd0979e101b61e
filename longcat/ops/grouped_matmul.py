"""Matrix products of consecutive groups of rows, each with its own weight: the experts' one operation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def grouped_matmul(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Rows of group g times `weight[g]` transposed.

    A group without rows gives its weight a gradient of zeros, not none.

    Args:
        x: `[rows, in]`, sorted by group, `counts.sum() == rows`.
        weight: `[groups, out, in]`.
        counts: `[groups]`, integer rows of each group.

    Returns:
        `[rows, out]`.
    """
    if x.shape[0] == 0:  # keep the weight in the graph
        return x @ weight.sum(0).transpose(0, 1)
    # torch's kernel wants rows that start at multiples of 16 bytes, on both sides of the product
    if any(size * x.element_size() % 16 for size in weight.shape[1:]):
        return grouped_matmul_reference(x, weight, counts)
    return F.grouped_mm(x, weight.transpose(-2, -1), offs=counts.cumsum(0).to(torch.int32))


def grouped_matmul_reference(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """The same, a product a group."""
    groups = x.split(counts.tolist())
    return torch.cat([F.linear(rows, weight[group]) for group, rows in enumerate(groups)])
