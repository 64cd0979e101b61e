"""The mixture: routed experts as stacked weights, zero-computation experts as a scaled copy of the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from longcat.config import ModelConfig
from longcat.model.dispatch import Dispatcher, Journey, OneProcess, Through
from longcat.model.module import Module
from longcat.model.places import local
from longcat.model.plan import Counts, count
from longcat.model.recomputation import Recomputing, selectively
from longcat.model.router import Router
from longcat.ops.grouped_matmul import grouped_matmul
from longcat.ops.swiglu import swiglu

LITTLE_FOR_ALL = 2**21
"""Multiply-adds of an expert for all tokens, up to which picking its own ones costs more than it saves (CPU with AVX-512)."""


class Experts(Module, Recomputing):
    """SwiGLU experts with weights stacked along the first axis."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, hidden, inner = config.n_routed_experts, config.hidden_size, config.expert_ffn_hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, inner))

    def forward(self, arriving: list[Tensor], through: Through) -> list[Tensor]:
        """Let rows that are on their way through the experts: all chunks in one call, at which FSDP gathers the weights."""
        return through(arriving, self.compute)

    def compute(self, rows: Tensor, counts: Counts) -> Tensor:
        """Compute the outputs `[n, hidden]` for rows sorted by expert; a count for each expert that this process holds."""
        return (
            selectively(self._products, rows, counts) if self.recomputes("selective") else self._products(rows, counts)
        )

    def _products(self, rows: Tensor, counts: Counts) -> Tensor:
        gate_up, down = local(self.gate_up_proj), local(self.down_proj)
        run = self.operators.run
        inner = run(swiglu, run(grouped_matmul, rows, gate_up, counts.device, counts.host))
        return run(grouped_matmul, inner, down, counts.device, counts.host)

    def prefers_all(self, tokens: int, top_k: int) -> bool:
        """Say whether it takes less time to let each of so many tokens through every expert, in two products.

        So it does where the weights lie for few rows, most experts are wanted anyway, and little is computed in vain.
        """
        experts, hidden, inner = self.down_proj.shape
        is_laid, most_are_wanted = self.down_proj.stride(1) == 1, tokens * top_k >= 2 * experts
        return is_laid and most_are_wanted and 3 * tokens * hidden * inner <= LITTLE_FOR_ALL

    def of_all(self, tokens: Tensor, shares: Tensor) -> Tensor:
        """Compute the weighted sum over all experts `[tokens, hidden]` for their shares `[tokens, experts]`, most of them 0."""
        rows = tokens.expand(self.gate_up_proj.shape[0], -1, -1)
        inner = self.operators.run(swiglu, torch.bmm(rows, self.gate_up_proj.mT)) * shares.T.unsqueeze(-1)
        return inner.transpose(0, 1).flatten(1) @ self.down_proj.mT.flatten(0, 1)


class Everywhere:
    """A few tokens that go through every expert, where other ones go on a `Journey` to theirs."""

    def __init__(self, tokens: Tensor, shares: Tensor) -> None:
        self._tokens, self._shares = tokens, shares

    def compute(self, experts: Experts) -> None:
        """Compute the weighted sums."""
        self._sums = experts.of_all(self._tokens, self._shares)

    def end(self, rest: Tensor) -> Tensor:
        """Add them to `rest` `[tokens, hidden]`."""
        return rest + self._sums


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


@dataclass
class Mixing:
    """A mixture's work between `begin` and `end`."""

    tokens: Tensor
    """`[tokens, hidden]`."""
    zero_share: Tensor
    """Sum of the weights of a token's zero-computation experts, fp32 `[tokens, 1]`."""
    journey: Journey | Everywhere
    """Of the slots that go to routed experts."""
    statistics: RouterStatistics | None
    """For balance; None in inference mode."""


class MixtureOfExperts(Module):
    """Router, routed experts and zero-computation experts, computed in three parts with room for other work between.

    `begin` routes and lets the tokens set off to their experts, `compute` receives and computes, and lets the outputs set
    off, `end` receives and sums. A slot that goes to a zero-computation expert costs one multiply-add of the token: it is
    neither sorted, nor sent to another process, nor multiplied by a matrix. Slots of padding are treated the same way.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.routed = config.n_routed_experts
        self.router = Router(config)
        self.experts = Experts(config)
        self.dispatcher: Dispatcher = OneProcess()
        """Brings tokens to experts; expert parallelism sets its own."""

    def forward(self, x: Tensor, padding: Tensor | None = None) -> tuple[Tensor, RouterStatistics | None]:
        """Compute all three parts: sum weight * expert(x) over the chosen experts, a zero expert returns x.

        Args:
            x: `[batch, seq, hidden]`.
            padding: bool `[batch, seq]`, true for padding; all its slots go to zero experts.

        Returns:
            The sum, of x's shape, and the statistics for balance; None of them in inference mode.
        """
        mixing = self.begin(x, padding)
        self.compute(mixing)
        return self.end(mixing).view_as(x), mixing.statistics

    @torch.compiler.disable
    def begin(self, x: Tensor, padding: Tensor | None = None) -> Mixing:
        """Route the tokens of `x` `[batch, seq, hidden]`, see `forward`, and send them to their experts."""
        tokens = x.flatten(0, -2)
        weights, experts, probabilities = self.router(tokens)
        slots = probabilities.shape[-1]
        if padding is not None:
            void = padding.flatten()[:, None]
            # number `slots` is one behind the last expert: to what follows it is a zero expert, and it is not counted
            experts = experts.masked_fill(void, slots)
            probabilities = probabilities.masked_fill(void, 0.0)
        inference = torch.is_inference_mode_enabled()  # nothing is learnt, and a decoded token costs little else
        if inference and isinstance(self.dispatcher, OneProcess) and self.experts.prefers_all(*experts.shape):
            shares = weights.new_zeros(len(tokens), slots + 1).scatter_add_(1, experts, weights)
            routed, zero_share = shares[:, : self.routed], shares[:, self.routed :].sum(-1, keepdim=True)
            return Mixing(tokens, zero_share, Everywhere(tokens, routed), None)
        load = count(experts, slots + 1)
        zero_share = weights.masked_fill(experts < self.routed, 0.0).sum(-1, keepdim=True)
        journey = self.dispatcher.begin(tokens, experts, weights, load[: self.routed], self.operators)
        if inference:
            return Mixing(tokens, zero_share, journey, None)
        detached = probabilities.detach()
        statistics = RouterStatistics(
            probability=probabilities.sum(0),
            load=load[:slots].float(),
            entropy=-torch.xlogy(detached, detached).sum(),  # torch_npu lets the CPU compute torch.special.entr
            top_probability=detached.amax(-1).sum(),
        )
        return Mixing(tokens, zero_share, journey, statistics)

    @torch.compiler.disable
    def compute(self, mixing: Mixing) -> None:
        """Compute the experts that are here, and send their outputs back."""
        mixing.journey.compute(self.experts)

    @torch.compiler.disable
    def end(self, mixing: Mixing) -> Tensor:
        """Sum up the outputs of each token's experts, `[tokens, hidden]`."""
        return mixing.journey.end(mixing.tokens * mixing.zero_share.to(mixing.tokens.dtype))
