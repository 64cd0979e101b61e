"""The way of a layer's tokens to their experts and back, in three parts that leave room for other work between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from longcat.model.plan import Counts, plan
from longcat.ops.permute import combine, permute
from longcat.ops.registry import OperatorSettings

Compute = Callable[[Tensor, Counts], Tensor]
"""The experts of this process: rows `[n, hidden]` sorted by expert, and their counts, to outputs in the same order."""
Through = Callable[[list[Tensor], Compute], list[Tensor]]
"""Takes the rows that are on their way through the experts, and returns the outputs that are on their way back."""


class Trip(Protocol):
    """The way of some tokens to their experts and back; each method is called once, in this order."""

    def start(self) -> Tensor:
        """Let the tokens set off; returns rows on their way, which only `through` may read."""

    def through(self, arriving: Tensor, compute: Compute) -> Tensor:
        """Receive the rows for this process' experts, compute, let the outputs set off, and return them on their way."""

    def end(self, returning: Tensor, rest: Tensor) -> Tensor:
        """Receive the outputs, and add each token's weighted sum to `rest` `[tokens, hidden]`."""


class Journey:
    """All tokens of a layer, on one trip or in chunks on several. `compute` is called once, then `end` once."""

    def __init__(self, trips: Sequence[Trip], sizes: list[int]) -> None:
        """Let the tokens set off, `sizes[i]` of them on trip i."""
        self._trips, self._sizes = trips, sizes
        self._rows = [trip.start() for trip in trips]

    def compute(self, experts: Callable[[list[Tensor], Through], list[Tensor]]) -> None:
        """Compute the experts of this process, and let their outputs set off."""
        self._rows = experts(self._rows, self._through)

    def end(self, rest: Tensor) -> Tensor:
        """Add each token's weighted sum of its experts' outputs to `rest` `[tokens, hidden]`."""
        parts = zip(self._trips, self._rows, rest.split(self._sizes) if len(self._sizes) > 1 else [rest], strict=True)
        sums = [trip.end(rows, part) for trip, rows, part in parts]
        return sums[0] if len(sums) == 1 else torch.cat(sums)

    def _through(self, arriving: list[Tensor], compute: Compute) -> list[Tensor]:
        return [trip.through(rows, compute) for trip, rows in zip(self._trips, arriving, strict=True)]


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
        return Journey([_Stay(tokens, experts, weights, plan(counts, experts.numel()), operators)], [len(tokens)])


class _Stay:
    def __init__(
        self, tokens: Tensor, experts: Tensor, weights: Tensor, counts: Counts, operators: OperatorSettings
    ) -> None:
        self._tokens, self._experts, self._weights = tokens, experts, weights
        self._counts, self._operators = counts, operators

    def start(self) -> Tensor:
        rows, self._places = self._operators.run(permute, self._tokens, self._experts, self._counts.rows)
        return rows

    def through(self, arriving: Tensor, compute: Compute) -> Tensor:
        return compute(arriving, self._counts)

    def end(self, returning: Tensor, rest: Tensor) -> Tensor:
        return self._operators.run(combine, returning, self._places, self._weights, rest)
