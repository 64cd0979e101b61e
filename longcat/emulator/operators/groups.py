"""Groups of rows, as operators for experts are told of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def group_bounds(group_list: Any, group_list_type: int, operator: str) -> list[tuple[int, int]]:
    """Return where each group starts and ends.

    Args:
        group_list: ends of groups (`group_list_type` 0), their sizes (1), or pairs of number and size (2).
        group_list_type: see above.
        operator: for errors.
    """
    values = group_list.long() if isinstance(group_list, Tensor) else torch.tensor(group_list, dtype=torch.long)
    if group_list_type not in (0, 1, 2):
        raise RuntimeError(f"{operator}: group_list_type must be 0, 1 or 2, got {group_list_type}")
    if values.dim() != (2 if group_list_type == 2 else 1):
        raise RuntimeError(f"{operator}: group_list has shape {list(values.shape)} with type {group_list_type}")
    if group_list_type == 2:
        values = values[:, 1]
    ends = (values.cumsum(0) if group_list_type else values).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []
