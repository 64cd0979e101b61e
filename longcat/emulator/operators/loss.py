"""Fused losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.emulator.reference import check, gradients, reference


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
    """Return loss (`[tokens]` or `[1]`), log-probabilities `[tokens, classes]` and zeros for the z-loss, like the loss
    and `[tokens]`, which devices do not have.
    """

    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_cross_entropy_loss", reason)

    need(not lse_square_scale_for_zloss and not return_zloss, "the z-loss is not supported")
    need(reduction in ("none", "mean", "sum"), f"reduction must be none, mean or sum, got {reduction!r}")
    need(
        logits.dim() == 2 and target.shape == logits.shape[:1] and target.dtype == torch.int64,
        f"takes [tokens, classes] and int64 [tokens], got {list(logits.shape)} and {target.dtype} {list(target.shape)}",
    )
    need(0 <= label_smoothing < 1, f"label_smoothing must be in [0, 1), got {label_smoothing}")
    need(
        weight is None or (weight.dtype == torch.float32 and weight.shape == logits.shape[1:]),
        "weight must be float32 [classes]",
    )
    classes = logits.shape[1]
    need(ignore_index < classes, f"ignore_index must be below the {classes} classes, got {ignore_index}")
    need(
        bool(((target >= 0) & (target < classes)).all()),
        f"every target must be within 0 and {classes - 1}: a device has no ignored label below 0",
    )
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
    changed = {"label_smoothing": label_smoothing != 0}
    if reduction == "mean":
        changed |= {"weight": weight is not None, "ignore_index": ignore_index != -100}
    for name, is_changed in changed.items():
        check(not is_changed, "npu_cross_entropy_loss", f"{name} has no gradient with reduction {reduction}")

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


@reference("npu_softmax_cross_entropy_with_logits")
def softmax_cross_entropy_with_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each row with probabilities as labels, `[batch]`."""
    check(
        logits.dim() == 2 and labels.shape == logits.shape,
        "npu_softmax_cross_entropy_with_logits",
        f"takes two tensors [batch, classes], got {list(logits.shape)} and {list(labels.shape)}",
    )
    return -(labels.float() * logits.float().log_softmax(-1)).sum(-1).to(logits.dtype)


@reference("npu_softmax_cross_entropy_with_logits_backward")
def softmax_cross_entropy_with_logits_backward(d_loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the logits, of labels that sum to 1."""
    d_logits = logits.float().softmax(-1) - labels.float()
    return (d_logits * d_loss.float().unsqueeze(-1)).to(logits.dtype)


_REDUCTIONS = ("none", "mean", "sum")


@reference("kl_div_backward")
def kl_div_backward(
    d_loss: Tensor, x: Tensor, target: Tensor, reduction: int = 1, *, log_target: bool = False
) -> Tensor | None:
    """Return the gradient of the log-probabilities."""
    return _kl_div_gradient(d_loss, x, target, reduction, log_target, 0)


@reference("kl_div_target_backward")
def kl_div_target_backward(
    d_loss: Tensor, x: Tensor, target: Tensor, reduction: int = 1, *, log_target: bool = False
) -> Tensor | None:
    """Return the gradient of the target."""
    return _kl_div_gradient(d_loss, x, target, reduction, log_target, 1)


def _kl_div_gradient(
    d_loss: Tensor, x: Tensor, target: Tensor, reduction: int, log_target: bool, which: int
) -> Tensor | None:
    def loss(values: Tensor, labels: Tensor) -> Tensor:
        return F.kl_div(values, labels, reduction=_REDUCTIONS[reduction], log_target=log_target)

    shape = torch.broadcast_shapes(x.shape, target.shape) if reduction == 0 else ()
    return gradients(loss, [x, target], d_loss.expand(shape).to(x.dtype))[which]


@reference("l1_loss_backward")
def l1_loss_backward(d_loss: Tensor, x: Tensor, target: Tensor, reduction: int) -> Tensor:
    """Return the gradient of x."""
    d_x = (x - target).sign() * d_loss
    return d_x / x.numel() if reduction == 1 else d_x


@reference("npu_fused_linear_online_max_sum")
def linear_online_max_sum(
    x: Tensor, weight: Tensor, target: Tensor, vocab_start_index: int, vocab_end_index: int, return_logits: bool = False
) -> tuple[Tensor, ...]:
    """Compute what a rank with a part of the vocabulary knows of the loss, from `x weight^T`.

    Returns:
        Each row's maximum, sum of exponentials from there, and logit of the target from there (0 if it is another
        rank's), all float32; the packed mask of rows whose target is another rank's; the targets counted from the
        rank's first, 0 if another's; the logits or nothing.
    """

    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_fused_linear_online_max_sum", reason)

    need(
        x.dtype == weight.dtype and x.dtype in (torch.float16, torch.bfloat16), "takes float16 or bfloat16 of one kind"
    )
    need(x.dim() == weight.dim() == 2 and x.shape[1] == weight.shape[1], "takes [tokens, size] and [classes, size]")
    need(target.shape == x.shape[:1] and target.dtype in (torch.int32, torch.int64), "target must be int [tokens]")
    need(0 <= vocab_start_index <= vocab_end_index, "vocab_end_index must not be less than vocab_start_index")
    logits = x.float() @ weight.float().T
    maximum = logits.amax(-1)
    shifted = logits - maximum[:, None]
    elsewhere = (target < vocab_start_index) | (target > vocab_end_index)
    masked = torch.where(elsewhere, 0, target - vocab_start_index)
    predicted = torch.where(elsewhere, 0, shifted.gather(1, masked.long()[:, None])[:, 0])
    kept_logits = logits.to(x.dtype) if return_logits else x.new_empty(0)
    return maximum, shifted.exp().sum(-1), predicted, _pack_high_first(elsewhere), masked, kept_logits


def _pack_high_first(bits: Tensor) -> Tensor:
    """Pack booleans into bytes, the first in the highest bit, padded with ones."""
    whole = torch.cat((bits, bits.new_ones(-len(bits) % 8))).view(-1, 8).to(torch.uint8)
    return (whole << torch.arange(7, -1, -1, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


@reference("npu_fused_cross_entropy_loss_with_max_sum")
def cross_entropy_loss_with_max_sum(
    logits_max: Tensor,
    sum_exp_logits: Tensor,
    predicted_logits: Tensor,
    *,
    label_smoothing: float | None = 0.0,
    input: Tensor | None = None,
    weight: Tensor | None = None,
    vocab_parallel_logits: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return loss `[tokens]` and, where logits are given, their softmax, from what all ranks know together."""
    check(
        not label_smoothing and input is None and weight is None,
        "npu_fused_cross_entropy_loss_with_max_sum",
        "label_smoothing must be 0, input and weight None",
    )
    loss = sum_exp_logits.log() - predicted_logits
    if vocab_parallel_logits is None:
        return loss, None
    return loss, (vocab_parallel_logits.float() - logits_max[:, None]).exp() / sum_exp_logits[:, None]


@reference("npu_fused_linear_cross_entropy_loss_with_max_sum_backward")
def linear_cross_entropy_loss_with_max_sum_backward(
    d_loss: Tensor,
    x: Tensor,
    weight: Tensor,
    target_mask: Tensor,
    masked_target: Tensor,
    label_smoothing: float = 0.0,
    logits_max: Tensor | None = None,
    sum_exp_logits: Tensor | None = None,
    softmax: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and weight, from the softmax or, without it, maximum and sum over all ranks."""

    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_fused_linear_cross_entropy_loss_with_max_sum_backward", reason)

    need(not label_smoothing, "label_smoothing must be 0")
    if softmax is None:
        need(logits_max is not None and sum_exp_logits is not None, "needs softmax, or logits_max and sum_exp_logits")
        assert logits_max is not None and sum_exp_logits is not None
        softmax = (x.float() @ weight.float().T - logits_max[:, None]).exp() / sum_exp_logits[:, None]
    bits = (target_mask[:, None] >> torch.arange(7, -1, -1, dtype=torch.uint8)) & 1
    here = 1 - bits.flatten()[: len(x)].float()
    d_logits = softmax.float().scatter_add(1, masked_target.long()[:, None], -here[:, None]) * d_loss[:, None]
    return (d_logits @ weight.float()).to(x.dtype), (d_logits.T @ x.float()).to(weight.dtype)


@reference("binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: int = 1,
) -> Tensor:
    """Compute it as torch does, but halves in float32: the device rounds once, the CPU after each step."""

    def wide(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype.itemsize == 2 else tensor

    rows, labels = wide(logits), wide(target)
    of_each = None if weight is None else wide(weight)
    of_positive = None if pos_weight is None else wide(pos_weight)
    return torch.binary_cross_entropy_with_logits(rows, labels, of_each, of_positive, reduction).to(logits.dtype)
