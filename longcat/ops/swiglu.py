"""SwiGLU's inner part (arXiv 2002.05202)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from longcat.accelerator import npu_operator
from longcat.ops.fusion import fusible
from longcat.ops.registry import SampleInputs, operator


def _sample_inputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    yield (draw(7, 64),)


@operator("swiglu", _sample_inputs)
def swiglu(x: Tensor) -> Tensor:
    """Compute silu(gate) * up of the two halves of `[..., 2 * inner]`: `[..., inner]`.

    For a gate and an up that come out of one product, as the experts' do. Where they are two tensors, putting them
    together first would cost as much memory traffic as a fused kernel saves.
    """
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


swiglu.implementation("cuda")(fusible(swiglu.reference))


@swiglu.implementation("npu")
def _npu_swiglu(x: Tensor) -> Tensor:
    y: Tensor = npu_operator("npu_swiglu")(x)
    return y
