"""Fused Adam steps, and the check for non-finite gradients that loss scaling uses."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.reference import FLOATS, check, check_types, reference


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
    check_types("npu_apply_adam_w", FLOATS, var=values)
    check_types("npu_apply_adam_w", (values.dtype,), m=first, v=second, grad=grad, max_grad_norm=max_grad_norm)
    for tensor in (first, second, grad, max_grad_norm):
        check(tensor is None or tensor.shape == values.shape, "npu_apply_adam_w", "all tensors must have var's shape")
    check(not amsgrad or max_grad_norm is not None, "npu_apply_adam_w", "amsgrad needs max_grad_norm")
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


@reference("npu_apply_adam.out")
def apply_adam(
    beta1_power: float,
    beta2_power: float,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    grad: Tensor,
    use_locking: bool | None,
    use_nesterov: bool | None,
    *,
    out: list[Tensor],
) -> tuple[Tensor, ...]:
    """Apply one step of Adam in place to `out`, as TensorFlow does: the powers are those of this step."""
    values, first, second = out
    first.lerp_(grad.to(first.dtype), 1 - beta1)
    second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    ahead = first * beta1 + grad * (1 - beta1) if use_nesterov else first
    step = lr * (1 - torch.tensor(float(beta2_power))).sqrt() / (1 - beta1_power)
    values.sub_((ahead * step / second.sqrt().add_(epsilon)).to(values.dtype))
    return tuple(out)


@reference("npu_bert_apply_adam.out")
def bert_apply_adam(
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    grad: Tensor,
    max_grad_norm: float,
    global_grad_norm: float,
    weight_decay: float,
    step_size: float | None = None,
    adam_mode: int = 0,
    *,
    out: list[Tensor],
) -> tuple[Tensor, ...]:
    """Apply a step without bias correction in place to `out`, as BERT (0) or as mBERT (1), which brings its step size.

    A gradient whose global norm exceeds a positive `max_grad_norm` is scaled down to it.
    """
    check(adam_mode in (0, 1), "npu_bert_apply_adam", f"adam_mode must be 0 or 1, got {adam_mode}")
    check(adam_mode == 0 or step_size is not None, "npu_bert_apply_adam", "adam_mode 1 needs step_size")
    values, first, second = out
    if 0 < max_grad_norm < global_grad_norm:
        grad = grad * (max_grad_norm / global_grad_norm)
    first.lerp_(grad, 1 - beta1)
    second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    update = first / (second.sqrt() + epsilon)
    values.copy_(
        values - lr * weight_decay * values - (lr if step_size is None or adam_mode == 0 else step_size) * update
    )
    return tuple(out)


@reference("npu_apply_adam", "npu_apply_adam_w", "npu_bert_apply_adam")
def without_values(*arguments: object) -> tuple[Tensor, ...]:
    """Refuse a step that is not told what to update.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("a fused Adam step needs out=(values, first moment, second moment)")


@reference("_amp_foreach_non_finite_check")
def non_finite_check(gradients: list[Tensor]) -> bool:
    """Whether any gradient is infinite or NaN."""
    return not all(bool(gradient.isfinite().all()) for gradient in gradients)
