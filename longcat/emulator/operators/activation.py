"""Fused activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.emulator.reference import check, gradients, reference


def _with_gradient(name: str, backward: str, function: Callable[..., Tensor]) -> None:
    """Register an operator and its backward operator, which takes the gradient and the operator's own arguments."""

    def gradient(d_y: Tensor, x: Tensor, *options: Any, **named: Any) -> Tensor | None:
        return gradients(lambda t: function(t, *options, **named), [x], d_y)[0]

    reference(name)(function)
    reference(backward)(gradient)


def _check_even(operator: str, x: Tensor, dim: int) -> None:
    check(
        -x.dim() <= dim < x.dim() and x.shape[dim] % 2 == 0,
        operator,
        f"dimension {dim} of {list(x.shape)} must be there and even",
    )


@reference("npu_swiglu")
def swiglu(x: Tensor, dim: int = -1) -> Tensor:
    """Compute `silu(a) * b` of the two halves of x, rounded once."""
    _check_even("npu_swiglu", x, dim)
    a, b = x.float().chunk(2, dim)
    return (F.silu(a) * b).to(x.dtype)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Compute GELU as torch does."""
    check(approximate in ("none", "tanh"), "npu_gelu", f"approximate must be none or tanh, got {approximate!r}")
    return F.gelu(x, approximate=approximate)


def fast_gelu(x: Tensor) -> Tensor:
    """Compute `x * sigmoid(1.702 x)`."""
    return x * torch.sigmoid(1.702 * x)


@reference("npu_swiglu_backward")
def swiglu_backward(d_y: Tensor, x: Tensor, dim: int = -1) -> Tensor:
    """Return the gradient of x."""
    (a, b), gradient = x.float().chunk(2, dim), d_y.float()
    return torch.cat((torch.ops.aten.silu_backward(gradient * b, a), gradient * F.silu(a)), dim).to(x.dtype)


_with_gradient("npu_gelu", "npu_gelu_backward", gelu)
_with_gradient("npu_fast_gelu", "npu_fast_gelu_backward", fast_gelu)
reference("fast_gelu")(fast_gelu)
_with_gradient("npu_mish", "npu_mish_backward", F.mish)


@reference("npu_silu")
def silu(x: Tensor) -> Tensor:
    """Compute SiLU as torch does."""
    return F.silu(x)


@reference("npu_silu_backward")
def silu_backward(d_y: Tensor, x: Tensor, y: Tensor) -> Tensor | None:
    """Return the gradient of x; y is not needed."""
    return gradients(F.silu, [x], d_y)[0]


@reference("npu_silu_")
def silu_in_place(x: Tensor) -> Tensor:
    """Replace x by its SiLU."""
    return x.copy_(F.silu(x))


def _halves(x: Tensor, dim: int, activate_left: bool) -> tuple[Tensor, Tensor]:
    """Return the half that is multiplied and the one that goes through GELU."""
    left, right = x.chunk(2, dim)
    return (right, left) if activate_left else (left, right)


@reference("npu_geglu")
def geglu(x: Tensor, dim: int = -1, approximate: int = 1, activate_left: bool = False) -> tuple[Tensor, Tensor]:
    """Return `a * gelu(b)` of the two halves, and `gelu(b)`; approximate is 0 (none) or 1 (tanh)."""
    _check_even("npu_geglu", x, dim)
    check(approximate in (0, 1), "npu_geglu", f"approximate must be 0 or 1, got {approximate}")
    factor, gate = _halves(x.float(), dim, activate_left)
    activated = F.gelu(gate, approximate=("none", "tanh")[approximate])
    return (factor * activated).to(x.dtype), activated.to(x.dtype)


@reference("npu_geglu_grad")
def geglu_grad(
    d_y: Tensor, x: Tensor, activated: Tensor, dim: int = -1, approximate: int = 1, activate_left: bool = False
) -> Tensor | None:
    """Return the gradient of x."""

    def function(values: Tensor) -> Tensor:
        factor, gate = _halves(values, dim, activate_left)
        return factor * F.gelu(gate, approximate=("none", "tanh")[approximate])

    (gradient,) = gradients(function, [x.float()], d_y.float())
    return None if gradient is None else gradient.to(x.dtype)


@reference("npu_gelu_mul")
def gelu_mul(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Compute `gelu(a) * b` of the two halves of the last dimension."""
    _check_even("npu_gelu_mul", x, -1)
    check(
        2 <= x.dim() <= 8 and x.shape[-1] <= 1024 and x.shape[:-1].numel() <= 200_000,
        "npu_gelu_mul",
        f"takes 2 to 8 dimensions, the last at most 1024, the others at most 200000 together, got {list(x.shape)}",
    )
    check(approximate in ("none", "tanh"), "npu_gelu_mul", f"approximate must be none or tanh: {approximate!r}")
    a, b = x.float().chunk(2, -1)
    return (F.gelu(a, approximate=approximate) * b).to(x.dtype)


@reference("npu_clipped_swiglu")
def clipped_swiglu(
    x: Tensor,
    *,
    group_index: Tensor | None = None,
    dim: int = -1,
    alpha: float = 1.702,
    limit: float = 7.0,
    bias: float = 1.0,
    interleaved: bool = True,
) -> Tensor:
    """Compute `a * sigmoid(alpha * a) * (b + bias)` of two clipped halves, which may be every other element.

    With groups only the first rows count, as many as their sum; the others are 0.
    """
    check(x.dim() > 1, "npu_clipped_swiglu", "takes more than one dimension")
    _check_even("npu_clipped_swiglu", x, dim)
    dim %= x.dim()
    rows = x.flatten(dim).reshape(x.shape[:dim].numel(), -1).float()
    a, b = (rows[:, ::2], rows[:, 1::2]) if interleaved else rows.chunk(2, 1)
    a, b = a.clamp(max=limit), b.clamp(-limit, limit)
    y = a * torch.sigmoid(alpha * a) * (b + bias)
    if group_index is not None:
        y[int(group_index.sum()) :] = 0
    return y.view(*x.shape[:dim], x.shape[dim] // 2, *x.shape[dim + 1 :]).to(x.dtype)
