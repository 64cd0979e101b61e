"""Workload of a model of any family: its parameter counts, and the FLOPs per token by component."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from longcat.config import ModelConfig
from longcat.costs import flops
from longcat.costs.attention import Attention, Mixer
from longcat.costs.flops import Flops, Scores
from longcat.costs.products import Product, complete
from longcat.errors import ConfigError


@dataclass(frozen=True)
class Workload:
    """Cost of one token, and the sizes that published FLOP formulas are written in."""

    family: str
    """Model type, as config.json names it."""
    mixture: bool
    """Whether it has routed experts."""
    layers: int
    hidden_size: int
    vocabulary: int
    total_parameters: int
    activated_parameters: float
    """Weights that a mean token is multiplied by: no look-ups, no norms, of the routed experts only the chosen ones."""
    formula_parameters: float
    """N in published formulas: activated parameters with norms, embedding and multi-token prediction, no n-gram tables."""
    embedding_parameters: int
    """Part of N that is only read by index: embedding and positions. A tied head is not included."""
    attention_width: float
    """Sum of heads x (key + value dimensions) / 2 over all attentions: layers x hidden size for a plain model."""
    ffn_experts: float
    """Mean routed experts per token in a mixture layer; 0 for a dense model."""
    flops: Callable[[int, Scores], dict[str, Flops]]
    """FLOP of one token by component, for a sequence length in tokens and the scores that count."""
    assumptions: tuple[str, ...] = ()
    """Assumptions made where the inputs leave a choice, one sentence each."""
    shapes: tuple[Product, ...] = ()
    """Matrices whose shapes are known; `products` has all."""
    mixers: tuple[Mixer, ...] = ()
    """Layers that mix the tokens of a sequence."""

    def products(self) -> tuple[Product, ...]:
        """Return all matrices by shape; those without a known one are as wide as the residual stream on one side."""
        weights = {name: part.weight_gradient / 2 for name, part in self.flops(1, "causal").items()}
        for mixer in self.mixers:  # what has no weights has no gradient of any
            weights.setdefault(mixer.component, 0.0)
        idle = self.total_parameters - self.formula_parameters
        chosen = weights.get("routed_experts", 0.0)
        copies = max(2, round((chosen + idle) / chosen)) if chosen and idle > 0 else 1
        return complete(self.shapes, weights, self.hidden_size, self.layers, copies)

    def training_flops(self, sequence_length: int, scores: Scores = "causal") -> float:
        """Return the FLOP of forward and backward pass for one token."""
        return sum(part.training for part in self.flops(sequence_length, scores).values())

    def trained(self, parameters: float) -> Workload:
        """Return this workload where only so many parameters have a gradient and the others are frozen, as with LoRA.

        A frozen weight costs 4 FLOP instead of 6: its own gradient is not computed, but gradients pass through it.

        Raises:
            ConfigError: more parameters than the model has, or none.
        """
        if not 0 < parameters <= self.total_parameters:
            raise ConfigError(
                f"{parameters:g} trainable parameters: there must be above 0 and at most the {self.total_parameters:g} "
                f"of the model"
            )
        fraction, whole = parameters / self.total_parameters, self.flops

        def flops(sequence_length: int, scores: Scores) -> dict[str, Flops]:
            return {name: part.trained(fraction) for name, part in whole(sequence_length, scores).items()}

        frozen = f"{1 - fraction:.1%} of the weights are frozen: 4 FLOP each instead of 6"
        return replace(self, flops=flops, assumptions=(*self.assumptions, frozen))


def longcat_workload(model: ModelConfig, ffn_experts: float | None = None, family: str = "longcat") -> Workload:
    """Return the workload of a LongCat model.

    Args:
        model: the model.
        ffn_experts: mean routed experts per token, best as measured; `expected_ffn_experts` if None.
        family: model type to report.

    Raises:
        ConfigError: a negative number of routed experts, or more than a token can be routed to.
    """
    assumptions: tuple[str, ...] = ()
    if ffn_experts is None:
        ffn_experts = flops.expected_ffn_experts(model)
        if model.zero_expert_num:
            assumptions = (f"{ffn_experts:g} routed experts per token, as if all experts were chosen equally often",)
    most = min(model.moe_topk, model.n_routed_experts)
    if not 0 <= ffn_experts <= most * 1.000001:
        raise ConfigError(f"{ffn_experts:g} routed experts per token: this model allows 0 to {most}")
    total = sum(flops.parameters(model).values())
    expert = 3 * model.hidden_size * model.expert_ffn_hidden_size
    inactive = model.num_layers * (model.n_routed_experts - ffn_experts) * expert
    tables = flops.parameters(model).get("ngram_tables", 0)
    head_dims = model.qk_nope_head_dim + model.qk_rope_head_dim + model.v_head_dim
    experts = ffn_experts
    return Workload(
        family=family,
        mixture=True,
        layers=model.num_layers,
        hidden_size=model.hidden_size,
        vocabulary=model.vocabulary,
        total_parameters=total,
        activated_parameters=flops.activated_parameters(model, ffn_experts),
        formula_parameters=total - inactive - tables,
        embedding_parameters=model.hidden_size * model.vocabulary,
        attention_width=2 * model.num_layers * model.num_attention_heads * head_dims / 2,
        ffn_experts=ffn_experts,
        flops=lambda sequence_length, scores: flops.flops_per_token(model, sequence_length, experts, scores),
        assumptions=assumptions,
        shapes=flops.shapes(model, experts),
        mixers=(
            Attention(
                2 * model.num_layers + model.mtp_num_layers,
                model.num_attention_heads,
                model.qk_nope_head_dim + model.qk_rope_head_dim,
                model.v_head_dim,
                None if model.sparse_attention is None else model.sparse_attention.index_topk,
            ),
        ),
    )
