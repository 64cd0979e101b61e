"""The way of a layer's tokens to their experts and back, in three parts that leave room for other work between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from longcat.model.plan import Counts, plan
from longcat.ops.permute import combine, permute
from longcat.ops.registry import OperatorSettings

Compute = Callable[[Tensor, Counts], Tensor]
"""The experts of this process: rows `[n, hidden]` sorted by expert, and their counts, to outputs in the same order."""


class Journey(Protocol):
    """Tokens of one layer that have set off to their experts. `compute` is called once, then `end` once."""

    def compute(self, experts: Compute) -> None:
        """Receive the rows for this process' experts, compute, and let the outputs set off."""

    def end(self, rest: Tensor) -> Tensor:
        """Receive the outputs, and add each token's weighted sum to `rest` `[tokens, hidden]`."""


class Dispatcher(Protocol):
    """Brings tokens to the processes that hold their experts, and outputs back."""

    def begin(
        self, tokens: Tensor, experts: Tensor, weights: Tensor, counts: Tensor, operators: OperatorSettings
    ) -> Journey:
        """Let tokens set off.

        Args:
            tokens: `[tokens, hidden]`.
            experts: int64 `[tokens, top_k]`, numbers of the chosen experts; those from `len(counts)` on are not routed.
            weights: of their outputs, fp32, the same shape.
            counts: integer `[n_routed_experts]`, slots given to each.
            operators: settings of the model.
        """


class OneProcess:
    """Every expert is in this process: nothing is sent."""

    def begin(
        self, tokens: Tensor, experts: Tensor, weights: Tensor, counts: Tensor, operators: OperatorSettings
    ) -> Journey:
        """See `Dispatcher`."""
        return _Stay(tokens, experts, weights, plan(counts), operators)


class _Stay:
    def __init__(
        self, tokens: Tensor, experts: Tensor, weights: Tensor, counts: Counts, operators: OperatorSettings
    ) -> None:
        self._counts, self._weights, self._operators = counts, weights, operators
        self._rows, self._places = operators.run(permute, tokens, experts, counts.rows)

    def compute(self, experts: Compute) -> None:
        self._rows = experts(self._rows, self._counts)

    def end(self, rest: Tensor) -> Tensor:
        return self._operators.run(combine, self._rows, self._places, self._weights, rest)
