"""References of fused operators: plain functions on CPU tensors, run for tensors of the device."""

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


CHECKED: set[str] = set()
"""Operators whose arguments the wheel's meta kernel checks first: it refuses what a device refuses."""


def reference(*names: str, differentiable: bool = False, checked: bool = False) -> Callable[[Function], Function]:
    """Register a function as the reference of these operators.

    It takes the operator's arguments, with CPU tensors over the device's memory, and returns CPU tensors. `checked`
    has the wheel's meta kernel look at the arguments first.
    """

    def register(function: Function) -> Function:
        if checked:
            CHECKED.update(names)
        (DIFFERENTIABLE if differentiable else REFERENCES).update(dict.fromkeys(names, function))
        return function

    return register


def on_device(tensor: Any) -> bool:
    """Whether this is a tensor of the emulated device."""
    return isinstance(tensor, Tensor) and tensor.device.type == torch._C._get_privateuse1_backend_name()


def kernel(name: str, function: Function) -> Function:
    """Wrap a reference as a kernel for tensors of the device."""

    def run(*positional: Any, **named: Any) -> Any:
        call = Call(name)
        arguments = [call.down(value) for value in positional]
        options = {key: call.down(value) for key, value in named.items()}
        if name in CHECKED:
            _consult_meta_kernel(name, arguments, options)
        with torch.no_grad():
            return call.up(function(*arguments, **options))

    return run


def without_data(value: Any) -> Any:
    """Return tensors of the meta device with the shapes, strides and types of these; lists are mapped item by item."""
    if isinstance(value, (list, tuple)):
        return type(value)(without_data(item) for item in value)
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def overload(name: str, namespace: str = "npu") -> Any:
    """Return the operator that a reference is registered under."""
    operator, _, variant = name.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), operator), variant or "default")


def _consult_meta_kernel(name: str, arguments: list[Any], options: dict[str, Any]) -> None:
    overload(name)(*map(without_data, arguments), **{key: without_data(value) for key, value in options.items()})


class Call:
    """One call of an operator: maps its tensors between the device and the CPU."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.given: dict[int, tuple[Tensor, Tensor]] = {}
        self.device: torch.device | None = None

    def down(self, value: Any) -> Any:
        """Return CPU tensors that share the memory of device tensors; lists are mapped item by item."""
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
        alias: Tensor = torch.ops.longcat_emulator.alias(value)
        self.given[id(alias)] = (alias, value)
        return alias

    def up(self, value: Any) -> Any:
        """Return results as tensors of the device; an argument that was modified in place is returned itself."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.up(item) for item in value)
        if not isinstance(value, Tensor):
            return value
        if id(value) in self.given:
            return self.given[id(value)][1]
        return torch.ops.longcat_emulator.place(value.contiguous(), self.device)


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
