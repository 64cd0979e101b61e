"""Which function computes an operator: the plain torch reference, or a faster implementation for the kind of device.

An operator is called like the reference it is made from. It takes the implementation for the device of its first argument, unless
there is none, the implementation says why it cannot take these arguments, or the user asked for the reference. An implementation for an
accelerator is compared with the reference before its first use in a process: values and gradients, on small inputs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from longcat.accelerator import Kind
from longcat.config import OperatorName
from longcat.errors import DeviceError

P = ParamSpec("P")
R = TypeVar("R")

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest difference of an implementation from the reference in fp32, as a share of the reference's largest number: a few roundings
of each type. A wrong mask, scale or order is off by far more."""
REMEDY = "add it to training.reference_operators to go on without"
OPERATORS: dict[OperatorName, Operator[..., Any]] = {}

_forced: frozenset[OperatorName] = frozenset()
_checked: set[tuple[OperatorName, str, torch.dtype]] = set()
_reported: set[tuple[OperatorName, str]] = set()
_log = logging.getLogger(__name__)


class SampleInputs:
    """Draws the small inputs of a check, the same ones in every process and on every device."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int, dtype: torch.dtype | None = None, learns: bool = True) -> Tensor:
        """Normal numbers of the type that is checked, or of another one; `learns` asks for their gradient too."""
        return torch.randn(shape, generator=self.generator).to(dtype or self.dtype).requires_grad_(learns)


DrawInputs = Callable[[SampleInputs], Iterable[tuple[Any, ...]]]


@dataclass(frozen=True)
class Implementation:
    """A faster function for one kind of device."""

    operator: OperatorName
    kind: Kind
    function: Callable[..., Any]
    """Takes the reference's arguments and gives its results."""
    unsupported_reason: Callable[..., str | None]
    """Takes the same and says why the function cannot, or None if it can. Looks at shapes and types only."""


class Operator(Generic[P, R]):
    """A reference and the implementations that may stand in for it."""

    def __init__(
        self,
        name: OperatorName,
        reference: Callable[P, R],
        sample_inputs: DrawInputs,
        compared: Callable[[Any], Any],
    ) -> None:
        self.name, self.reference, self.sample_inputs, self.compared = name, reference, sample_inputs, compared
        self.implementations: dict[str, Implementation] = {}
        self.__doc__ = reference.__doc__
        OPERATORS[name] = self

    def implementation(
        self, *kinds: Kind, unsupported_reason: Callable[..., str | None] = lambda *_, **__: None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Make a function the implementation for these kinds of device."""

        def register(function: Callable[P, R]) -> Callable[P, R]:
            self.implementations.update(
                {kind: Implementation(self.name, kind, function, unsupported_reason) for kind in kinds}
            )
            return function

        return register

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The results of the implementation, or of the reference."""
        first = cast(Tensor, args[0])
        implementation = self.implementations.get(kind_of(first))
        if implementation is None or self.name in _forced:
            return self.reference(*args, **kwargs)
        problem = implementation.unsupported_reason(*args, **kwargs)
        if problem is not None:
            if (self.name, problem) not in _reported:
                _report(self.name, implementation.kind, problem)
            return self.reference(*args, **kwargs)
        if implementation.kind != "cpu" and (self.name, implementation.kind, first.dtype) not in _checked:
            check(self, implementation, first.device, first.dtype)
        return cast(R, implementation.function(*args, **kwargs))


def operator(
    name: OperatorName, sample_inputs: DrawInputs, compared: Callable[[Any], Any] = lambda result: result
) -> Callable[[Callable[P, R]], Operator[P, R]]:
    """Make an operator from its reference.

    Args:
        name: how the configuration calls it.
        sample_inputs: small arguments for a check, on the CPU, that every implementation can take.
        compared: what of the results an implementation must agree in: a tensor or several.
    """
    return lambda reference: Operator(name, reference, sample_inputs, compared)


def force_reference(names: Collection[OperatorName]) -> None:
    """From now on compute these operators, and no others, by their references in this process."""
    global _forced
    _forced = frozenset(names)


def kind_of(tensor: Tensor) -> str:
    """The kind of device a tensor lies on."""
    return tensor.device.type


@torch.compiler.disable
def _report(name: OperatorName, kind: Kind, problem: str) -> None:
    _reported.add((name, problem))
    _log.warning("operator %s is computed by its reference, not by the implementation for %s: %s", name, kind, problem)


@torch.compiler.disable
def check(of: Operator[..., Any], implementation: Implementation, device: torch.device, dtype: torch.dtype) -> None:
    """Compare an implementation with the reference, once.

    The reference computes in fp32 on the CPU from the same numbers, so that the difference is the implementation's own.

    Raises:
        DeviceError: it fails or gives something else; names operator, device and largest difference.
    """

    def keep(tensor: Tensor) -> Tensor:
        return tensor

    # the model may be in inference, or in a part whose tensors are recomputed: none of that is the check's concern
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, keep)
    with torch.inference_mode(False), torch.enable_grad(), hooks:
        for arguments in of.sample_inputs(SampleInputs(dtype)):
            expected = _results(of, of.reference, arguments, torch.device("cpu"), torch.float32)
            try:
                found = _results(of, implementation.function, arguments, device, None)
            except (RuntimeError, TypeError, AttributeError, ImportError) as error:
                raise DeviceError(f"operator {of.name} fails on {device} with {dtype} ({error}); {REMEDY}") from error
            _compare(f"operator {of.name} on {device} with {dtype}", expected, found, TOLERANCE[dtype])
    _checked.add((of.name, implementation.kind, dtype))


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
    """Values and gradients of a function, fp32 on the CPU, each with what it is; computed with `dtype` if one is given."""
    own = [_placed(value, device, dtype) for value in arguments]
    results = of.compared(function(*own))
    values = [results] if isinstance(results, Tensor) else list(results)
    draw = SampleInputs(torch.float32)
    total = torch.zeros((), device=device)
    for value in values:
        if value.requires_grad:
            total = total + (value.float() * draw(*value.shape, learns=False).to(device)).sum()
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
