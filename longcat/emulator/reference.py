"""References of fused operators: plain functions on CPU tensors, which kernels.cpp runs for tensors of the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]
REFERENCES: dict[str, Function] = {}
"""References by the operator's name in torch_npu's namespace, such as `npu_rms_norm` or `npu_apply_adam_w.out`."""
DIFFERENTIABLE: dict[str, Function] = {}
"""References of operators that torch differentiates, as the wheel's autograd kernel bypasses the dispatcher."""


def reference(*names: str, differentiable: bool = False) -> Callable[[Function], Function]:
    """Register a function as the reference of these operators.

    It takes the operator's arguments, with CPU tensors over the device's memory, and returns CPU tensors; an argument
    that it has written to is returned itself.
    """

    def register(function: Function) -> Function:
        (DIFFERENTIABLE if differentiable else REFERENCES).update(dict.fromkeys(names, function))
        return function

    return register


def gradients(function: Function, inputs: list[Tensor | None], output_gradient: Tensor) -> list[Tensor | None]:
    """Differentiate a function by torch's autograd with respect to all inputs that are not None.

    Args:
        function: function of the inputs that returns one tensor.
        inputs: tensors to differentiate by; None for an optional input that was not given.
        output_gradient: gradient of the result, of the same shape.
    """
    # a kernel runs with differentiation shut off, in the dispatcher as well
    with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False), torch.enable_grad():
        leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in inputs]
        result = function(*leaves)
    given = [leaf for leaf in leaves if leaf is not None]
    computed = iter(torch.autograd.grad(result, given, output_gradient, allow_unused=True))
    return [None if leaf is None else next(computed) for leaf in leaves]


def draw_seed() -> int:
    """Draw a seed from the generator of the current device, for operators that make random masks."""
    return int(torch.randint(0, 2**31 - 1, (1,), device=torch._C._get_privateuse1_backend_name()).item())
