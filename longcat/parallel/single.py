"""Training in one process: fp32 weights, and copies of them in the type that is computed in.

What FSDP's mixed precision does for several processes, without its exchange buffers: those cost a copy of all weights
and gradients in each step.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.utils.stateless import _reparametrize_module

from longcat.model.context import Phase
from longcat.model.router import Router
from longcat.model.transformer import LongcatModel, Sums


class Single:
    """A model whose own parameters are the fp32 weights that the optimizer moves."""

    def __init__(self, model: LongcatModel, compute: torch.dtype) -> None:
        self.model = model
        exact = {id(p) for module in model.modules() if isinstance(module, Router) for p in module.parameters()}
        self._weights = {name: p for name, p in model.named_parameters() if id(p) not in exact and p.dtype != compute}
        self._copies = {name: p.detach().to(compute).requires_grad_() for name, p in self._weights.items()}
        self._gradients = {name: torch.empty_like(weight) for name, weight in self._weights.items()}

    def begin(self) -> None:
        """Copy the weights, which the optimizer has moved, and forget the gradients."""
        with torch.no_grad():
            for name, copy in self._copies.items():
                copy.copy_(self._weights[name])
                copy.requires_grad_(self._weights[name].requires_grad)
        for parameter in self.model.parameters():
            parameter.grad = None

    def sums(
        self,
        tokens: Tensor,
        targets: Tensor,
        phase: Phase,
        documents: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> Sums:
        """See `LongcatModel.sums`."""
        options = {"phase": phase, "documents": documents, "padding": padding}
        return cast(Sums, functional_call(self.model, self._copies, (tokens, targets), options))

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a loss' gradients to the weights', in fp32."""
        with _reparametrize_module(self.model, self._copies):  # layers that are worked out again see them
            loss.backward()
        for name, copy in self._copies.items():
            weight, gradient = self._weights[name], copy.grad
            copy.grad = None
            if gradient is None:
                continue
            if weight.grad is not None:
                weight.grad += gradient
                continue
            # memory that a process has not used before is dear: every step uses the same
            weight.grad = self._gradients[name].copy_(gradient)
