"""The language-model loss without the logits of all tokens in memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.ops.chunks import size_kind
from longcat.ops.fusion import fusible, is_fusing
from longcat.ops.registry import SampleInputs, operator
from longcat.padding import IGNORE

ACCELERATOR_BYTES = 2 * 2**30
"""Memory for the logits of a chunk of tokens on an accelerator: 3 % of 64 GB, and 2184 tokens of LongCat-2.0 in bf16."""
CPU_BYTES = 24 * 2**20
"""The same on a CPU, where they should stay in the cache."""
FEWEST_ROWS = 256
"""Tokens of a chunk on a CPU whatever the vocabulary: a 16-bit gradient of the head is rounded once per chunk."""


def _sample_inputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    yield draw(6, 32), draw(40, 32), torch.tensor([3, IGNORE, 0, 39, 7, 7])


@operator("linear_cross_entropy", _sample_inputs)
def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum -log softmax(hidden weight^T)[target] over tokens, in fp32.

    Args:
        hidden: `[tokens, hidden]`.
        weight: `[vocab, hidden]`, of the same type.
        targets: int64 `[tokens]`; a token with `IGNORE` is left out, whatever its hidden state.

    Returns:
        fp32 scalar, in nats.
    """
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, ignore_index=IGNORE, reduction="sum")


def chunk_rows(kind: str, vocabulary: int, dtype: torch.dtype) -> int:
    """Count the tokens whose logits are held at once.

    The count depends on nothing but the device's kind and the shapes, so that a run can be repeated.

    Args:
        kind: of device.
        vocabulary: logits of a token.
        dtype: of the logits; those of 16 bits are held in fp32 as well.
    """
    each = vocabulary * (4 if dtype == torch.float32 else 4 + dtype.itemsize)
    if kind == "cpu":
        return max(FEWEST_ROWS, CPU_BYTES // each)
    return max(1, ACCELERATOR_BYTES // each)


@linear_cross_entropy.implementation("cpu", "cuda", "npu")
@torch.compiler.disable
def _chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Compute loss and gradients chunk by chunk.

    So a chunk's logits are made once; `torch.nn.functional.linear_cross_entropy` makes them twice, and
    npu_cross_entropy_loss wants all of them at once and keeps them for the gradient.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Works out the gradients in the forward pass; beyond a chunk it holds nothing as large as the head but its gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        learns, vocabulary = any(ctx.needs_input_grad[:2]), weight.shape[0]
        chunk = min(chunk_rows(size_kind(hidden), vocabulary, hidden.dtype), max(1, hidden.shape[0]))
        fuses = learns and is_fusing()
        # first use of memory costs page faults: every chunk works in the same buffers
        narrow = hidden.new_empty(chunk, vocabulary)
        wide = narrow if fuses or narrow.dtype == torch.float32 else torch.empty_like(narrow, dtype=torch.float32)
        make = torch.empty_like if hidden.shape[0] else torch.zeros_like
        d_hidden, d_weight = (make(one) if learns else None for one in (hidden, weight))
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], chunk):
            target = targets[start : start + chunk, None]
            ignored = target == IGNORE
            target = target.masked_fill(ignored, 0)
            # a sum over tokens must not meet what is not finite in one that is left out
            rows = hidden[start : start + chunk].masked_fill(ignored, 0)
            logits, log_p = narrow[: len(rows)], wide[: len(rows)]
            torch.mm(rows, weight.mT, out=logits)
            if fuses:
                part, d_logits = _loss_and_gradient(logits, target, ignored)
            else:
                torch.log_softmax(log_p if wide is narrow else log_p.copy_(logits), -1, out=log_p)
                part = -log_p.gather(1, target).masked_fill(ignored, 0.0).sum()
                d_logits = _gradient_in_place(logits, log_p, target, ignored) if learns else logits
            loss += part
            if d_hidden is None or d_weight is None:
                continue
            torch.mm(d_logits, weight, out=d_hidden[start : start + chunk])
            if start == 0:
                torch.mm(d_logits.mT, rows, out=d_weight)
            else:
                d_weight.addmm_(d_logits.mT, rows)
        ctx.gradients = d_hidden, d_weight
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of linear_cross_entropy can be taken once")
        (d_hidden, d_weight), ctx.gradients = ctx.gradients, None
        (gradient,) = gradients
        return d_hidden.mul_(gradient), d_weight.mul_(gradient), None


def _gradient_in_place(logits: Tensor, log_p: Tensor, target: Tensor, ignored: Tensor) -> Tensor:
    """Compute the loss' gradient in the buffers of the logits and of their logarithms."""
    gradient = log_p.exp_()
    gradient.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=torch.float32))
    gradient = gradient if logits.dtype == torch.float32 else logits.copy_(gradient)
    return gradient.masked_fill_(ignored, 0.0)


@fusible
def _loss_and_gradient(logits: Tensor, target: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the sum of the losses of `[tokens, vocab]` logits, and its gradient in their type, in as few passes as can be."""
    log_p = logits.float().log_softmax(-1)
    loss = -log_p.gather(1, target).masked_fill(ignored, 0.0).sum()
    is_target = torch.arange(logits.shape[1], device=logits.device) == target
    return loss, (log_p.exp() - is_target.float()).masked_fill(ignored, 0.0).to(logits.dtype)
