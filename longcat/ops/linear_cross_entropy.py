"""The language-model loss without the logits of all tokens in memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.ops.registry import SampleInputs, operator
from longcat.padding import IGNORE

CHUNK_LOGITS = 4_194_304
"""Logits held at once."""


def _sample_inputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    yield draw(6, 32), draw(40, 32), torch.tensor([3, IGNORE, 0, 39, 7, 7])


@operator("linear_cross_entropy", _sample_inputs)
def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log softmax(hidden weight^T)[target], in fp32.

    Args:
        hidden: `[tokens, hidden]`.
        weight: `[vocab, hidden]`, of the same type.
        targets: int64 `[tokens]`; `IGNORE` leaves a token out.

    Returns:
        fp32 scalar, in nats.
    """
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, ignore_index=IGNORE, reduction="sum")


@linear_cross_entropy.implementation("cpu", "cuda", "npu")
@torch.compiler.disable
def _chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The gradients are worked out chunk by chunk together with the loss.

    So a chunk's logits are made once and never leave the cache; `torch.nn.functional.linear_cross_entropy` makes them
    twice, and npu_cross_entropy_loss wants all of them at once and keeps them for the gradient.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        learns, vocabulary = any(ctx.needs_input_grad[:2]), weight.shape[0]
        chunk = min(max(1, CHUNK_LOGITS // vocabulary), hidden.shape[0])
        # memory that a process has not used before is dear: every chunk works in the same buffers
        narrow = hidden.new_empty(chunk, vocabulary)
        wide = torch.empty_like(narrow, dtype=torch.float32)
        d_hidden, part = torch.empty_like(hidden), torch.empty_like(weight)
        d_weight, part_wide = (torch.empty_like(weight, dtype=torch.float32) for _ in range(2))
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], chunk):
            rows, target = hidden[start : start + chunk], targets[start : start + chunk, None]
            valid = target != IGNORE
            target = target.where(valid, 0)
            logits, log_p = narrow[: len(rows)], wide[: len(rows)]
            torch.mm(rows, weight.mT, out=logits)
            torch.log_softmax(log_p.copy_(logits), -1, out=log_p)
            loss -= log_p.gather(1, target).where(valid, 0.0).sum()
            if learns:
                d_logits = log_p.exp_()
                d_logits.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=torch.float32))
                logits.copy_(d_logits.mul_(valid))
                torch.mm(logits, weight, out=d_hidden[start : start + chunk])
                torch.mm(logits.mT, rows, out=part)
                if start == 0:
                    d_weight.copy_(part)
                else:
                    d_weight += part_wide.copy_(part)
        if learns:
            ctx.save_for_backward(d_hidden, part.copy_(d_weight))
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        (gradient,) = gradients
        return d_hidden * gradient.to(d_hidden.dtype), d_weight * gradient.to(d_weight.dtype), None
