"""References of fused operators: plain functions on CPU tensors, run for tensors of the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]
REFERENCES: dict[str, Function] = {}
"""By the operator's name in torch_npu's namespace, for example `npu_rms_norm` or `npu_apply_adam_w.out`."""
DIFFERENTIABLE: dict[str, Function] = {}
"""The same, for operators whose autograd kernel in the wheel reaches past the dispatcher to the device: differentiated
by torch instead."""


def reference(*names: str, differentiable: bool = False) -> Callable[[Function], Function]:
    """Make a function the kernel of these operators.

    It takes the operator's arguments, with CPU tensors over the device's memory, and returns CPU tensors.
    """

    def register(function: Function) -> Function:
        (DIFFERENTIABLE if differentiable else REFERENCES).update(dict.fromkeys(names, function))
        return function

    return register


def on_device(tensor: Any) -> bool:
    """Whether this is a tensor of the emulated device."""
    return isinstance(tensor, Tensor) and tensor.device.type == torch._C._get_privateuse1_backend_name()


def kernel(name: str, function: Function) -> Function:
    """The function as a kernel for tensors of the device."""

    def run(*positional: Any, **named: Any) -> Any:
        call = Call(name)
        arguments = [call.down(value) for value in positional]
        options = {key: call.down(value) for key, value in named.items()}
        with torch.no_grad():
            return call.up(function(*arguments, **options))

    return run


class Call:
    """Tensors of one call, on the device and on the CPU."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.given: dict[int, tuple[Tensor, Tensor]] = {}
        self.device: torch.device | None = None

    def down(self, value: Any) -> Any:
        """CPU tensors over the memory of those of the device, through lists."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.down(item) for item in value)
        if not isinstance(value, Tensor):
            return value
        self.device = self.device or value.device
        if value.device != self.device and value.dim() > 0:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{self.device} and {value.device}! (in npu::{self.name})"
            )
        if torch.ops.longcat_emulator.has_tangent(value):
            raise NotImplementedError(
                f"{self.name}: forward-mode differentiation; torch_npu has no formula for it and would lose the tangent"
            )
        seen: Tensor = torch.ops.longcat_emulator.alias(value)
        self.given[id(seen)] = (seen, value)
        return seen

    def up(self, value: Any) -> Any:
        """Results as tensors of the device; an argument that was written to is itself."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.up(item) for item in value)
        if not isinstance(value, Tensor):
            return value
        if id(value) in self.given:
            return self.given[id(value)][1]
        return torch.ops.longcat_emulator.place(value.contiguous(), self.device)


def gradients(function: Function, inputs: list[Tensor | None], output_gradient: Tensor) -> list[Tensor | None]:
    """Gradients of a function by torch's own differentiation, for the inputs that are there.

    Args:
        function: takes as many tensors as there are inputs.
        inputs: what it is differentiated by; None where the operator was called without.
        output_gradient: of its result, same shape.
    """
    # a kernel runs with differentiation shut off, in the dispatcher as well
    with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False), torch.enable_grad():
        leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in inputs]
        result = function(*leaves)
    there = [leaf for leaf in leaves if leaf is not None]
    found = iter(torch.autograd.grad(result, there, output_gradient, allow_unused=True))
    return [None if leaf is None else next(found) for leaf in leaves]


def draw_seed() -> int:
    """A seed from the current device's generator, which moves on: for operators that make random masks."""
    return int(torch.randint(0, 2**31 - 1, (1,), device=torch._C._get_privateuse1_backend_name()).item())
