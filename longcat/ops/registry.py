"""Operators: a plain torch reference each, and faster implementations for kinds of device.

An operator is called like the reference it is made from. The implementation for the device of the first argument runs,
unless there is none, it cannot take these arguments, or `OperatorSettings` ask for the reference. An implementation for
an accelerator is compared with the reference before its first use: values and gradients, on small inputs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from longcat.accelerator import Kind
from longcat.errors import DeviceError
from longcat.ops.fusion import fusing

P = ParamSpec("P")
R = TypeVar("R")

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest difference of an implementation from the fp32 reference, as a fraction of the reference's largest number: a few
roundings of each type. A wrong mask, scale or order is off by far more."""
REMEDY = "add it to training.reference_operators to go on without"
_log = logging.getLogger(__name__)


class SampleInputs:
    """Draws the small inputs of a check, the same ones in every process and on every device."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int, dtype: torch.dtype | None = None, requires_grad: bool = True) -> Tensor:
        """Draw normal numbers of the type that is checked, or of another one."""
        return torch.randn(shape, generator=self.generator).to(dtype or self.dtype).requires_grad_(requires_grad)


DrawInputs = Callable[[SampleInputs], Iterable[tuple[Any, ...]]]


@dataclass(frozen=True)
class Implementation:
    """A faster function for one kind of device."""

    operator: str
    kind: Kind
    function: Callable[..., Any]
    """Takes the reference's arguments and returns its results."""
    unsupported_reason: Callable[..., str | None] | None
    """Takes the same arguments; says why the function cannot take them, or None. Looks at shapes and types only. None where
    it takes all that the reference does."""


class Operator(Generic[P, R]):
    """A reference and the implementations that may stand in for it."""

    def __init__(
        self, name: str, reference: Callable[P, R], sample_inputs: DrawInputs, compared: Callable[[Any], Any]
    ) -> None:
        self.name, self.reference, self.sample_inputs, self.compared = name, reference, sample_inputs, compared
        self.implementations: dict[str, Implementation] = {}
        self.__doc__ = reference.__doc__

    def implementation(
        self, *kinds: Kind, unsupported_reason: Callable[..., str | None] | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Make a function the implementation for these kinds of device."""

        def register(function: Callable[P, R]) -> Callable[P, R]:
            for kind in kinds:
                self.implementations[kind] = Implementation(self.name, kind, function, unsupported_reason)
            return function

        return register

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute the operator outside of a model; a model has `OperatorSettings` of its own."""
        return STANDARD.run(self, *args, **kwargs)


def operator(
    name: str, sample_inputs: DrawInputs, compared: Callable[[Any], Any] = lambda result: result
) -> Callable[[Callable[P, R]], Operator[P, R]]:
    """Make an operator from its reference.

    Args:
        name: its name in `training.reference_operators`.
        sample_inputs: draws small arguments for a check, on the CPU, that every implementation can take.
        compared: picks the results in which an implementation must agree: a tensor or several.
    """
    return lambda reference: Operator(name, reference, sample_inputs, compared)


class OperatorSettings:
    """How one model computes its operators, and what has been checked and logged for it."""

    def __init__(self, reference: Collection[str] = ()) -> None:
        self.reference = frozenset(reference)
        """Names of the operators that are computed by their reference on every device."""
        self.checked: set[tuple[str, str, torch.dtype]] = set()
        """Operator, kind of device and type of the implementations that have been compared with their reference."""
        self.reported: set[tuple[str, str]] = set()
        """Operators whose fall-back to the reference has been logged, with its reason."""

    def run(self, called: Operator[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute an operator by the implementation for its arguments' device, or by its reference.

        Raises:
            DeviceError: the implementation fails its check.
        """
        first = cast(Tensor, args[0])
        implementation = called.implementations.get(kind_of(first))
        if implementation is None or called.name in self.reference:
            return called.reference(*args, **kwargs)
        ask = implementation.unsupported_reason
        if ask is not None and (reason := ask(*args, **kwargs)) is not None:
            if (called.name, reason) not in self.reported:
                self._report(called.name, implementation.kind, reason)
            return called.reference(*args, **kwargs)
        if implementation.kind != "cpu" and (called.name, implementation.kind, first.dtype) not in self.checked:
            self._check(called, implementation, first)
        return cast(R, implementation.function(*args, **kwargs))

    @torch.compiler.disable
    def _report(self, name: str, kind: Kind, reason: str) -> None:
        self.reported.add((name, reason))
        _log.warning(
            "operator %s is computed by its reference, not by its implementation for %s: %s", name, kind, reason
        )

    @torch.compiler.disable
    def _check(self, called: Operator[..., Any], implementation: Implementation, first: Tensor) -> None:
        check(called, implementation, first.device, first.dtype)
        self.checked.add((called.name, implementation.kind, first.dtype))


STANDARD = OperatorSettings()
"""Settings of calls outside of a model: nothing is computed by its reference that need not be."""


def kind_of(tensor: Tensor) -> str:
    """Return the kind of device that a tensor is on."""
    return tensor.device.type


def check(of: Operator[..., Any], implementation: Implementation, device: torch.device, dtype: torch.dtype) -> None:
    """Compare an implementation with the reference.

    The reference computes in fp32 on the CPU from the same numbers, so the difference is the implementation's own.

    Raises:
        DeviceError: it fails or gives something else; names operator, device and largest difference.
    """
    # the model may be in inference, or in a part that is recomputed: none of that is known in a thread of its own
    # and what is fused for small inputs first is not as fast for the model's
    with fusing(False), ThreadPoolExecutor(1) as thread:
        thread.submit(_check, of, implementation, device, dtype).result()


def _check(of: Operator[..., Any], implementation: Implementation, device: torch.device, dtype: torch.dtype) -> None:
    for arguments in of.sample_inputs(SampleInputs(dtype)):
        expected = _results(of, of.reference, arguments, torch.device("cpu"), torch.float32)
        try:
            found = _results(of, implementation.function, arguments, device, None)
        except (RuntimeError, TypeError, AttributeError, ImportError) as error:
            raise DeviceError(f"operator {of.name} fails on {device} with {dtype} ({error}); {REMEDY}") from error
        _compare(f"operator {of.name} on {device} with {dtype}", expected, found, TOLERANCE[dtype])


def _compare(subject: str, expected: list[tuple[str, Tensor]], found: list[tuple[str, Tensor]], share: float) -> None:
    for (what, right), (_, ours) in zip(expected, found, strict=True):
        size = float(right.abs().max())
        difference = float((ours - right).abs().max()) if ours.shape == right.shape else math.nan
        if not difference <= share * size:  # not a number is no agreement
            raise DeviceError(
                f"{subject} differs from its reference: {what} by up to {difference:.3g}, where the largest number is "
                f"{size:.3g} and {share:g} of that is tolerated; {REMEDY}"
            )


def _results(
    of: Operator[..., Any],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    device: torch.device,
    dtype: torch.dtype | None,
) -> list[tuple[str, Tensor]]:
    """Compute a function's values and gradients with `dtype`, if given; returns them named, in fp32 on the CPU."""
    own = [_placed(value, device, dtype) for value in arguments]
    results = of.compared(function(*own))
    values = [results] if isinstance(results, Tensor) else list(results)
    draw = SampleInputs(torch.float32)
    total = torch.zeros((), device=device)
    for value in values:
        if value.requires_grad:
            total = total + (value.float() * draw(*value.shape, requires_grad=False).to(device)).sum()
    leaves = {number: value for number, value in enumerate(own) if isinstance(value, Tensor) and value.requires_grad}
    gradients = torch.autograd.grad(total, list(leaves.values())) if total.requires_grad else ()
    named = [(f"result {number}", value) for number, value in enumerate(values)]
    named += [(f"gradient of argument {number}", g) for number, g in zip(leaves, gradients, strict=True)]
    return [(what, value.detach().to("cpu", torch.float32)) for what, value in named]


def _placed(value: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if not isinstance(value, Tensor):
        return value
    floating = value.is_floating_point()
    moved = value.detach().to(device, dtype if floating and dtype is not None else value.dtype, copy=True)
    return moved.requires_grad_(value.requires_grad)
