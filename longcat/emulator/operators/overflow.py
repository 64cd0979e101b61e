"""The float status of a device: whether a result did not fit its type since the flag was cleared.

A device keeps it in saturation mode only, which torch_npu sets for `INF_NAN_MODE_FORCE_DISABLE=1` or an Ascend 910A.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.reference import reference

_NUMBERS = 8
"""Length of a status, whose first number counts."""


@reference("npu_alloc_float_status", differentiable=True)
def alloc_float_status(x: Tensor) -> Tensor:
    """Return room for the status on x's device: float32 zeros `[8]`."""
    return torch.zeros(_NUMBERS, device=x.device)


@reference("npu_get_float_status", differentiable=True)
def get_float_status(x: Tensor, mode: int = 0) -> Tensor:
    """Return the status of x's device, int32 `[8]`: the first number is 1 after an overflow."""
    status = torch.zeros(_NUMBERS, dtype=torch.int32)
    status[0] = int(torch.ops.longcat_emulator.overflow(x.device))
    return status.to(x.device)


@reference("npu_clear_float_status", differentiable=True)
def clear_float_status(x: Tensor, mode: int = 0) -> Tensor:
    """Clear the status of x's device; returns float32 zeros `[8]`."""
    torch.ops.longcat_emulator.clear_overflow(x.device)
    return torch.zeros(_NUMBERS, device=x.device)
