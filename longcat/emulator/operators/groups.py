"""Groups of rows, as operators for experts are told of them."""

from __future__ import annotations

from typing import Any

import torch


def group_bounds(group_list: Any, group_list_type: int, operator: str) -> list[tuple[int, int]]:
    """Return where each group starts and ends.

    Args:
        group_list: ends of groups (`group_list_type` 0), their sizes (1), or pairs of number and size (2).
        group_list_type: see above.
        operator: for errors.
    """
    values = torch.as_tensor(group_list, dtype=torch.int64)
    if group_list_type not in (0, 1, 2):
        raise RuntimeError(f"{operator}: group_list_type must be 0, 1 or 2, got {group_list_type}")
    if values.dim() != (2 if group_list_type == 2 else 1):
        raise RuntimeError(f"{operator}: group_list has shape {list(values.shape)} with type {group_list_type}")
    if group_list_type == 2:
        values = values[:, 1]
    ends = (values.cumsum(0) if group_list_type else values).tolist()
    if ends != sorted(ends) or min(ends, default=0) < 0:
        raise RuntimeError(f"{operator}: groups must not end before they begin, group_list is {values.tolist()}")
    return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []


def numbered_groups(group_list: Any, group_list_type: int, operator: str) -> list[tuple[int, tuple[int, int]]]:
    """Return the number of each group, and where it starts and ends; pairs need not be in the order of their numbers."""
    bounds = group_bounds(group_list, group_list_type, operator)
    numbers = torch.as_tensor(group_list)[:, 0].tolist() if group_list_type == 2 else range(len(bounds))
    if min(numbers, default=0) < 0:
        raise RuntimeError(f"{operator}: groups have numbers of 0 and more, group_list names {min(numbers)}")
    return list(zip(numbers, bounds, strict=True))
