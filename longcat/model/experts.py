"""The mixture: routed experts as stacked weights, zero-computation experts as a scaled copy of the input."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from longcat.config import ModelConfig
from longcat.model.module import Module
from longcat.model.router import Router
from longcat.ops.grouped_matmul import grouped_matmul
from longcat.ops.permute import permute_and_combine
from longcat.ops.swiglu import swiglu


class Dispatcher(Protocol):
    """Brings tokens to the process that holds their expert, and results back (see `longcat.parallel.expert`)."""

    def __call__(self, experts: Experts, rows: Tensor, counts: Tensor) -> Tensor:
        """Compute the experts' outputs for rows `[n, hidden]` sorted by expert, `counts` `[n_routed_experts]` rows each."""


class Experts(Module):
    """SwiGLU experts with weights stacked along the first axis."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, hidden, inner = config.n_routed_experts, config.hidden_size, config.expert_ffn_hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, inner))
        self.dispatcher: Dispatcher | None = None
        """Set by expert parallelism; none means that every expert is here."""

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Compute the outputs `[n, hidden]` for rows sorted by expert, `counts` `[n_routed_experts]` rows each."""
        if self.dispatcher is not None:
            return self.dispatcher(self, rows, counts)
        return self.compute(rows, counts)

    def compute(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Compute outputs for the experts that this process holds; `counts` has one entry for each of them."""
        gate_up, down = _local(self.gate_up_proj), _local(self.down_proj)
        run = self.operators.run
        return run(grouped_matmul, run(swiglu, run(grouped_matmul, rows, gate_up, counts)), down, counts)


class RouterStatistics(NamedTuple):
    """Router statistics of one layer for balancing; padding is excluded."""

    probability: Tensor
    """Sum over tokens of the router's probabilities, fp32 `[experts]`, with gradient."""
    load: Tensor
    """Slots given to each expert, fp32 `[experts]`."""
    entropy: Tensor
    """Sum over tokens of the entropy of the router's probabilities, in nats, fp32 scalar without gradient."""
    top_probability: Tensor
    """Sum over tokens of the largest probability, fp32 scalar without gradient."""


class MixtureOfExperts(Module):
    """Router, routed experts and zero-computation experts.

    A slot that goes to a zero-computation expert costs one multiply-add of the token: it is neither sorted, nor sent to
    another process, nor multiplied by a matrix. Slots of padding are treated the same way.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.routed = config.n_routed_experts
        self.router = Router(config)
        self.experts = Experts(config)

    @torch.compiler.disable
    def forward(self, x: Tensor, padding: Tensor | None = None) -> tuple[Tensor, RouterStatistics | None]:
        """Sum weight * expert(x) over the chosen experts; a zero expert returns x.

        Args:
            x: `[batch, seq, hidden]`.
            padding: bool `[batch, seq]`, true for padding; all its slots go to zero experts.

        Returns:
            The sum, of x's shape, and the statistics for balance; None of them in inference mode.
        """
        tokens = x.flatten(0, -2)
        weights, experts, probabilities = self.router(tokens)
        slots = probabilities.shape[-1]
        if padding is not None:
            void = padding.flatten()[:, None]
            # number `slots` is one behind the last expert: to what follows it is a zero expert, and it is not counted
            experts = experts.masked_fill(void, slots)
            probabilities = probabilities.masked_fill(void, 0.0)
        load = torch.bincount(experts.flatten(), minlength=slots + 1)
        zero_share = weights.masked_fill(experts < self.routed, 0.0).sum(-1, keepdim=True)
        zero_expert_output = tokens * zero_share.to(x.dtype)
        out = self.operators.run(
            permute_and_combine, tokens, experts, weights, load[: self.routed], self.experts, zero_expert_output
        )
        if torch.is_inference_mode_enabled():  # nothing is learnt, and a decoded token costs little else
            return out.view_as(x), None
        detached = probabilities.detach()
        statistics = RouterStatistics(
            probability=probabilities.sum(0),
            load=load[:slots].float(),
            entropy=torch.special.entr(detached).sum(),
            top_probability=detached.amax(-1).sum(),
        )
        return out.view_as(x), statistics


def _local(parameter: Tensor) -> Tensor:
    """Return this process' part of a parameter that may be sharded."""
    to_local = getattr(parameter, "to_local", None)
    return to_local() if to_local is not None else parameter
