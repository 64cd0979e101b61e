"""The rows that a step computes at a time, and how a model that is whole in every process goes through them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from longcat.config import Phase
from longcat.model.generation import continue_greedily
from longcat.model.transformer import LongcatModel, LossSums
from longcat.parallel.passes import passing


class MicroBatch(NamedTuple):
    """Whole rows, `[rows, seq]` each."""

    tokens: Tensor
    targets: Tensor
    padding: Tensor
    """Bool, true for padding."""
    documents: Tensor | None
    """Numbers of the documents, where nothing reaches from one into another."""


Learn = Callable[[int, LossSums, range], Tensor]
"""Takes the number of a micro-batch, this process' part of its loss terms and the layers that their statistics are of, and
returns this process' part of the loss. It may be called more than once for the same ones; the last call counts."""


class AllLayers(ABC):
    """A model of which every process computes all layers."""

    model: LongcatModel
    copies: frozenset[nn.Parameter] = frozenset()
    """Parameters of this process that another one has too, and counts."""

    @property
    def parts(self) -> list[LongcatModel]:
        """The parts of the model that this process computes: the one that is all of it."""
        return [self.model]

    def sums(
        self,
        tokens: Tensor,
        targets: Tensor,
        phase: Phase,
        documents: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> LossSums:
        """Sum the loss terms of a micro-batch, see `LongcatModel.sums`."""
        return self.model.sums(tokens, targets, phase, documents, padding)

    @abstractmethod
    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradients to those before; those of the step are complete with the `last` one."""

    def accumulate(self, batch: Sequence[MicroBatch], phase: Phase, learn: Learn) -> None:
        """Compute the gradients of a step, one micro-batch after the other. Collective."""
        for number, rows in enumerate(batch):
            with passing("forward", number):
                sums = self.sums(rows.tokens, rows.targets, phase, rows.documents, rows.padding)
                loss = learn(number, sums, self.model.part.layers)
            with passing("backward", number):
                self.backward(loss, last=number == len(batch) - 1)

    def sample(self, prompt: list[int], count: int) -> list[int]:
        """Continue a prompt by `count` tokens, the likeliest one each time; the model is gathered. Collective."""
        return continue_greedily(self.model, prompt, count)

    def evaluate(self, batch: Sequence[MicroBatch], phase: Phase, learn: Learn) -> None:
        """Compute loss terms without gradients, one micro-batch after the other. Collective."""
        for number, rows in enumerate(batch):
            sums = self.sums(rows.tokens, rows.targets, phase, rows.documents, rows.padding)
            learn(number, sums, self.model.part.layers)
