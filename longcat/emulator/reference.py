"""References of fused operators: plain functions on CPU tensors, run for tensors of the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]
REFERENCES: dict[str, Function] = {}
"""References by the operator's name in torch_npu's namespace, such as `npu_rms_norm` or `npu_apply_adam_w.out`."""
DIFFERENTIABLE: dict[str, Function] = {}
"""References of operators that torch differentiates, as the wheel's autograd kernel bypasses the dispatcher."""
MIXED: set[str] = set()
"""Operators that take some tensors from the host, such as lengths of sequences."""


def reference(
    *names: str, differentiable: bool = False, mixed: bool = False, checked: bool = False
) -> Callable[[Function], Function]:
    """Register a function as the reference of these operators.

    It takes the operator's arguments, with CPU tensors over the device's memory, and returns CPU tensors.

    Args:
        names: of the operators; with `atb::` before those of that namespace.
        differentiable: whether torch differentiates the function itself, which then gets the device's tensors.
        mixed: whether tensors of the host may be among the arguments; they are passed as they are.
        checked: whether the wheel's meta kernel looks at the arguments first: it refuses what a device refuses.
    """

    def register(function: Function) -> Function:
        for name in names:
            (DIFFERENTIABLE if differentiable else REFERENCES)[name] = _checked(name, function) if checked else function
        if mixed:
            MIXED.update(names)
        return function

    return register


def operator_of(name: str) -> Any:
    """Return the operator that a reference is registered under."""
    namespace, _, rest = name.rpartition("::")
    operator, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace or "npu"), operator), overload or "default")


def without_data(value: Any) -> Any:
    """Return tensors of the meta device with the shapes, strides and types of these; lists are mapped item by item."""
    if isinstance(value, (list, tuple)):
        return type(value)(without_data(item) for item in value)
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _checked(name: str, function: Function) -> Function:
    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        operator_of(name)(*map(without_data, arguments), **{key: without_data(value) for key, value in options.items()})
        return function(*arguments, **options)

    return run


def on_device(tensor: Any) -> bool:
    """Whether this is a tensor of the emulated device."""
    return isinstance(tensor, Tensor) and tensor.device.type == torch._C._get_privateuse1_backend_name()


def kernel(name: str, function: Function) -> Function:
    """Wrap a reference as a kernel for tensors of the device."""

    def run(*positional: Any, **named: Any) -> Any:
        call = Call(name)
        arguments = [call.down(value) for value in positional]
        options = {key: call.down(value) for key, value in named.items()}
        with torch.no_grad():
            watched = torch.ops.longcat_emulator.saturates() and call.finite()
            results = function(*arguments, **options)
            return call.up(call.saturated(results) if watched else results)

    return run


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
        if not isinstance(value, Tensor) or (self.name in MIXED and not on_device(value)):
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

    def finite(self) -> bool:
        """Whether all tensors that were given are numbers, so that a result that is none is an overflow."""
        return all(torch.ops.longcat_emulator.finite(alias) for alias, _ in self.given.values())

    def saturated(self, value: Any) -> Any:
        """Saturate results, and set the device's flag if there was something to saturate."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.saturated(item) for item in value)
        if isinstance(value, Tensor) and value.device.type == "cpu":
            torch.ops.longcat_emulator.saturate(value, self.device)
        return value

    def up(self, value: Any) -> Any:
        """Return results as tensors of the device; an argument that was modified in place is returned itself."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.up(item) for item in value)
        if not isinstance(value, Tensor):
            return value
        if id(value) in self.given:
            return self.given[id(value)][1]
        return torch.ops.longcat_emulator.place(value.contiguous(), self.device)


def check(holds: bool, operator: str, requirement: str) -> None:
    """Refuse arguments that a device's kernel refuses.

    Raises:
        RuntimeError: what `operator` requires does not hold.
    """
    if not holds:
        raise RuntimeError(f"{operator}: {requirement}")


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
