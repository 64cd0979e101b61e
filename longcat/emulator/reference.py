"""References of fused operators: plain functions on CPU tensors, which kernels.cpp runs for tensors of the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
"""Types of floating-point numbers that a device computes with."""
REFERENCES: dict[str, Function] = {}
"""References by the operator's name in torch_npu's namespace, such as `npu_rms_norm` or `npu_apply_adam_w.out`."""
DIFFERENTIABLE: dict[str, Function] = {}
"""References of operators that torch differentiates, as the wheel's autograd kernel bypasses the dispatcher."""
FACTORIES: set[str] = set()
"""Those of them that get no tensor, so that the dispatcher has no device to choose a kernel by."""


def reference(
    *names: str, differentiable: bool = False, factory: bool = False, checked: bool = False
) -> Callable[[Function], Function]:
    """Register a function as the reference of these operators.

    It takes the operator's arguments, with CPU tensors over the device's memory, and returns CPU tensors; an argument
    that it has written to is returned itself.

    Args:
        names: of the operators; with `atb::` before those of that namespace.
        differentiable: whether torch differentiates the function itself, which then gets the device's tensors.
        factory: whether no tensor is among them; the function returns a tensor of the device then.
        checked: whether the wheel's meta kernel looks at the arguments first: it refuses what a device refuses.
    """

    def register(function: Function) -> Function:
        for name in names:
            if name in REFERENCES or name in DIFFERENTIABLE:
                raise ValueError(f"{name} has two references, the second one in {function.__module__}")
            of = DIFFERENTIABLE if differentiable or factory else REFERENCES
            of[name] = _checked(name, function) if checked else function
        if factory:
            FACTORIES.update(names)
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


@dataclass
class OnHost:
    """A result that stays on the host."""

    tensor: Tensor


def kernel(name: str, function: Function) -> Function:
    """Return a reference as kernels.cpp calls it.

    It tells which results stay on the host, as the others are moved to the device, and its errors name the operator.
    """

    def result(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(result(item) for item in value)
        return torch.ops.longcat_emulator.on_host(value.tensor) if isinstance(value, OnHost) else value

    def run(*positional: Any, **named: Any) -> Any:
        try:
            return result(function(*positional, **named))
        except (RuntimeError, IndexError, ValueError) as error:
            if "npu_" in str(error) or name in str(error):
                raise
            raise type(error)(f"{name}: {error}") from error

    return run


def check(holds: bool, operator: str, requirement: str) -> None:
    """Refuse arguments that a device's kernel refuses.

    Raises:
        RuntimeError: what `operator` requires does not hold.
    """
    if not holds:
        raise RuntimeError(f"{operator}: {requirement}")


def check_types(operator: str, types: Sequence[torch.dtype], **tensors: Tensor | None) -> None:
    """Refuse tensors that are given and of another type than these.

    Raises:
        RuntimeError: it names the tensor as the caller does.
    """
    for name, tensor in tensors.items():
        if tensor is not None:
            allowed = " or ".join(str(dtype).removeprefix("torch.") for dtype in types)
            check(tensor.dtype in types, operator, f"{name} must be {allowed}, got {tensor.dtype}")


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


def draw() -> tuple[int, int]:
    """Return seed and offset of the current device's generator, and move it on."""
    name = torch._C._get_privateuse1_backend_name()
    found: tuple[int, int] = torch.ops.longcat_emulator.draw(
        torch.device(name, torch.get_device_module(name).current_device())
    )
    return found


def kept(seed: int, offset: int, count: int, keep: float) -> Tensor:
    """Return which of `count` elements dropout keeps: a function of the generator's seed and offset."""
    if keep >= 1:
        return torch.ones(count, dtype=torch.bool)
    return torch.rand(count, generator=host_generator(seed, offset)) < keep


def host_generator(seed: int, offset: int) -> torch.Generator:
    """Return a generator of the host that is a function of a device's seed and offset."""
    return torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + offset) % 2**63)
