"""Training in one process: the model computes in its own type, the weights are fp32.

What FSDP's mixed precision does for several processes, without its exchange buffers: those cost a copy of all weights
and gradients in each step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.model.transformer import LongcatModel
from longcat.parallel.accumulate import AllLayers
from longcat.parallel.embedding import SpreadTables
from longcat.parallel.master_weights import MasterWeights


class SingleProcess(AllLayers):
    """A model that one process trains; see `ParallelModel`."""

    def __init__(self, model: LongcatModel, compute: torch.dtype, tables: SpreadTables | None = None) -> None:
        self.model, self.tables = model, tables
        self.masters = None if compute == torch.float32 else MasterWeights(model, compute)

    @property
    def weights(self) -> LongcatModel | MasterWeights:
        """The fp32 weights, by the model's names."""
        return self.masters or self.model

    def gather(self) -> None:
        """Do nothing: everything is here."""

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.weights.zero_grad()
        if self.tables is not None:
            self.tables.drop_gradient()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a loss' gradients to those of the weights, in fp32."""
        loss.backward()
        if self.masters is not None:
            self.masters.collect_gradients()
        if last and self.tables is not None:
            self.tables.finish()

    def write_weights(self) -> None:
        """Let the model compute with the weights that the optimizer has moved."""
        if self.masters is not None:
            self.masters.write_copies()
