"""Search of the scale that quantises a feature map best."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.number_formats import INT8
from longcat.emulator.reference import reference

_LEAST_SCALE = 1.192092896e-07
"""Scales below this, float32's epsilon, are 1."""


@reference("npu_ifmr")
def ifmr(
    data: Tensor,
    data_min: Tensor,
    data_max: Tensor,
    cumsum: Tensor,
    min_percentile: float,
    max_percentile: float,
    search_start: float,
    search_end: float,
    search_step: float,
    with_offset: bool,
) -> tuple[Tensor, Tensor]:
    """Return scale and offset, of those on a grid, with the least squared error of values in eight bits.

    Args:
        data: the feature map.
        data_min: its smallest value, `[1]` or a number, as the results.
        data_max: its largest.
        cumsum: running sum of its histogram between these.
        min_percentile: fraction of values that the range reaches below.
        max_percentile: fraction that it reaches above.
        search_start: first factor of the range that is tried.
        search_end: where factors end.
        search_step: their distance.
        with_offset: whether the range need not have its middle at zero.
    """
    reached, bins = cumsum.float() / data.numel(), cumsum.numel()
    width = (data_max - data_min).float()
    high = (reached < max_percentile).sum() / bins * width + data_min
    low = (reached < 1 - min_percentile).sum() / bins * width + data_min
    factors = torch.arange(search_start, search_end, search_step, dtype=torch.float32)
    if with_offset:
        high, low = high.clamp_min(0), low.clamp_max(0)
        scale = (high * factors - low) / 255
        scale = torch.where(scale < _LEAST_SCALE, 1.0, scale)
        offset = -((low / scale).round() + 128)
    else:
        scale = torch.maximum(high.abs(), low.abs()) * factors / 127
        offset = torch.zeros_like(scale)
    errors = []
    for one, zero in zip(scale, offset, strict=True):
        stored = ((data.float() / one).round() + zero).clamp(INT8.low, INT8.largest)
        errors.append(((stored - zero) * one - data.float()).square().sum())
    best = torch.stack(errors).argmin()
    return scale[best].view_as(data_min), offset[best].view_as(data_min)
