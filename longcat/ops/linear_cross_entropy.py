"""The language-model loss without the logits of all tokens in memory at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
"""Target of a position that is not trained on."""
CHUNK_LOGITS = 4_194_304
"""Logits held at once."""


@torch.compiler.disable
def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log softmax(hidden weight^T)[target], in fp32.

    The gradients are worked out chunk by chunk together with the loss, so that a chunk's logits are made once and never
    leave the cache; `torch.nn.functional.linear_cross_entropy` makes them twice.

    Args:
        hidden: `[tokens, hidden]`.
        weight: `[vocab, hidden]`, of the same type.
        targets: int64 `[tokens]`; `IGNORE` leaves a token out.

    Returns:
        fp32 scalar, in nats.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets)


def linear_cross_entropy_reference(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The same from whole logits."""
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, ignore_index=IGNORE, reduction="sum")


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        learns = any(ctx.needs_input_grad[:2])
        d_hidden = torch.empty_like(hidden) if learns else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if learns else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        chunk = max(1, CHUNK_LOGITS // weight.shape[0])
        for start in range(0, hidden.shape[0], chunk):
            rows, target = hidden[start : start + chunk], targets[start : start + chunk, None]
            valid = target != IGNORE
            target = target.where(valid, 0)
            log_p = F.linear(rows, weight).log_softmax(-1, dtype=torch.float32)
            loss -= log_p.gather(1, target).where(valid, 0.0).sum()
            if d_hidden is not None and d_weight is not None:
                d_logits = log_p.exp_()
                d_logits.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=torch.float32))
                d_logits = d_logits.mul_(valid).to(hidden.dtype)
                torch.mm(d_logits, weight, out=d_hidden[start : start + chunk])
                d_weight += d_logits.mT @ rows
        if learns:
            ctx.save_for_backward(d_hidden, d_weight.to(weight.dtype) if d_weight is not None else None)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        (gradient,) = gradients
        return d_hidden * gradient.to(d_hidden.dtype), d_weight * gradient.to(d_weight.dtype), None
