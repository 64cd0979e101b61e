"""Root-mean-square layer norm (arXiv 1910.07467)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longcat.model.module import Module
from longcat.ops.rms_norm import rms_norm


class RMSNorm(Module):
    """Computes `weight * x / sqrt(mean(x^2) + eps)` over the last axis, in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Norm `[..., size]`; the result has the same shape and type.

        A `scale` goes into the weight, which is smaller than the result that it multiplies.
        """
        return self.operators.run(rms_norm, x, self.weight if scale == 1.0 else self.weight * scale, self.eps)
