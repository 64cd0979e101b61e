"""Fused cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.emulator.reference import gradients, reference


@reference("npu_cross_entropy_loss")
def cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    lse_square_scale_for_zloss: float = 0.0,
    return_zloss: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return loss (`[tokens]` or `[1]`), log-probabilities `[tokens, classes]` and zeros for the z-loss, like the
    loss and `[tokens]`.

    Raises:
        NotImplementedError: for the z-loss, which devices do not have either.
    """
    if lse_square_scale_for_zloss or return_zloss:
        raise NotImplementedError("npu_cross_entropy_loss: the z-loss is not emulated")
    log_prob = logits.float().log_softmax(-1)
    loss = _loss(log_prob, target, weight, reduction, ignore_index, label_smoothing)
    loss = loss.reshape(-1).to(logits.dtype)
    return loss, log_prob.to(logits.dtype), torch.zeros_like(loss), logits.new_zeros(len(logits))


@reference("npu_cross_entropy_loss_backward")
def cross_entropy_loss_backward(
    d_loss: Tensor,
    log_prob: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    grad_zloss: Tensor | None = None,
    lse_for_zloss: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    lse_square_scale_for_zloss: float = 0.0,
) -> Tensor:
    """Return the gradient of the logits, from the log-probabilities."""

    def loss(values: Tensor) -> Tensor:
        return _loss(values, target, weight, reduction, ignore_index, label_smoothing).reshape(-1)

    (d_log_prob,) = gradients(loss, [log_prob.float()], d_loss.float().reshape(-1))
    assert d_log_prob is not None
    return (d_log_prob - log_prob.float().exp() * d_log_prob.sum(-1, keepdim=True)).to(log_prob.dtype)


def _loss(
    log_prob: Tensor, target: Tensor, weight: Tensor | None, reduction: str, ignore_index: int, label_smoothing: float
) -> Tensor:
    nll = F.nll_loss(log_prob, target, weight, ignore_index=ignore_index, reduction=reduction)
    if not label_smoothing:
        return nll
    scale = torch.ones(log_prob.shape[1]) if weight is None else weight
    smooth = -(log_prob * scale).sum(-1)
    counted = target != ignore_index
    smooth = smooth * counted
    if reduction != "none":
        smooth = smooth.sum()
    if reduction == "mean":
        smooth = smooth / scale[target[counted]].sum()
    return (1 - label_smoothing) * nll + label_smoothing / log_prob.shape[1] * smooth
