"""Root-mean-square layer norm (arXiv 1910.07467)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.accelerator import npu_operator
from longcat.ops.registry import SampleInputs, operator


def _sample_inputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    yield draw(3, 5, 48), draw(48), 1e-5


@operator("rms_norm", _sample_inputs)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute `weight * x / sqrt(mean(x^2) + eps)` over the last axis, in fp32.

    torch has a kernel of its own for this on a CPU and on CUDA.

    Args:
        x: `[..., size]`.
        weight: `[size]`.
        eps: added to the mean.

    Returns:
        x's shape and type.
    """
    return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)


@rms_norm.implementation("cpu")
def _cpu_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Norm fp32 tokens without gradient by their lengths: torch's kernel takes more passes over them."""
    fp32 = x.dtype == weight.dtype == torch.float32
    if not fp32 or torch.compiler.is_compiling() or (torch.is_grad_enabled() and x.requires_grad):
        return rms_norm.reference(x, weight, eps)
    size = x.shape[-1]
    if x.numel() == size:
        flat = x.reshape(size)
        return torch.mul(x, weight).mul_((float(flat.dot(flat)) / size + eps) ** -0.5)
    lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    inverse = torch.full_like(lengths, eps).addcmul_(lengths, lengths, value=1 / size).rsqrt_()
    return torch.mul(x, inverse).mul_(weight)


@rms_norm.implementation(
    "npu", unsupported_reason=lambda x, weight, eps: None if 2 <= x.dim() <= 8 else "x has not 2 to 8 axes"
)
def _npu_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y: Tensor = npu_operator("npu_rms_norm")(x, weight.to(x.dtype), eps)[0]
    return y
