"""Fused AdamW step, and the check for non-finite gradients that loss scaling uses."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.reference import reference


@reference("npu_apply_adam_w.out")
def apply_adam_w(
    beta1_power: float,
    beta2_power: float,
    lr: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    grad: Tensor,
    max_grad_norm: Tensor | None,
    amsgrad: bool | None,
    maximize: bool | None,
    *,
    out: list[Tensor],
) -> tuple[Tensor, ...]:
    """Apply one step of AdamW in place to `out`: values, first and second moment.

    Args:
        beta1_power: `beta1` to the power of the steps made before this one.
        beta2_power: likewise.
        lr: step size.
        weight_decay: decoupled.
        beta1: of the first moment.
        beta2: of the second.
        epsilon: added to the root.
        grad: as values.
        max_grad_norm: second moments' maximum, with amsgrad, in place.
        amsgrad: whether that is used.
        maximize: whether to go uphill.
        out: see above.
    """
    values, first, second = out
    gradient = -grad if maximize else grad
    values.mul_(1 - lr * weight_decay)
    first.lerp_(gradient.to(first.dtype), 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    largest = second
    if amsgrad and max_grad_norm is not None:
        largest = torch.maximum(max_grad_norm, second, out=max_grad_norm)
    root = (largest / (1 - beta2_power * beta2)).sqrt_().add_(epsilon)
    values.addcdiv_(first, root, value=-lr / (1 - beta1_power * beta1))
    return tuple(out)


@reference("_amp_foreach_non_finite_check")
def non_finite_check(gradients: list[Tensor]) -> bool:
    """Whether any gradient is infinite or NaN."""
    return not all(bool(gradient.isfinite().all()) for gradient in gradients)
