"""A model as a counter of FLOPs sees it, of whatever family: weights by component, attentions, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from longcat.config import ModelConfig
from longcat.costs import flops
from longcat.costs.flops import Flops, Scores
from longcat.errors import ConfigError


@dataclass(frozen=True)
class Attention:
    """Attentions of one shape."""

    layers: int
    heads: int
    key_dim: int
    """Of a head."""
    value_dim: int
    """Of a head."""
    window: int | None = None
    """Keys that a query reads at most."""


@dataclass(frozen=True)
class Workload:
    """What one token costs, and the few sizes that the formulas of others are written in."""

    family: str
    """Model type, as config.json names it."""
    mixture: bool
    """Whether it has routed experts."""
    layers: int
    hidden_size: int
    vocabulary: int
    total_parameters: int
    activated_parameters: float
    """Weights that a mean token is multiplied by: no look-ups, no norms, and of the routed experts those it is sent to."""
    formula_parameters: float
    """N in the formulas of others: what is activated, with norms and embedding, without n-gram tables."""
    embedding_parameters: int
    """Of N, what is only read by index: embedding and positions. A tied head is not included."""
    attention_width: float
    """Sum of heads x (key + value dimensions) / 2 over all attentions: layers x hidden size for a plain model."""
    ffn_experts: float
    """Mean routed experts of a token in a mixture layer; 0 without one."""
    flops: Callable[[int, Scores], dict[str, Flops]]
    """FLOP of one token by component, of a sequence length."""
    assumptions: tuple[str, ...] = ()
    """What was taken for granted and could be otherwise."""

    def training_flops(self, sequence_length: int, scores: Scores = "causal") -> float:
        """FLOP of forward and backward pass for one token."""
        return sum(part.training for part in self.flops(sequence_length, scores).values())


@dataclass(frozen=True)
class Decoder:
    """A decoder of a usual family, by its matrices."""

    family: str
    layers: int
    hidden_size: int
    vocabulary: int
    matrices: Mapping[str, float]
    """Weights that a token is multiplied by, by component; of the routed experts, those of the mean token."""
    attentions: tuple[Attention, ...]
    embedding_parameters: int
    """Embedding and positions, a tied head included."""
    norm_and_bias_parameters: int
    tied: bool
    """Whether the head is the embedding."""
    inactive_expert_parameters: float = 0.0
    """Weights of the routed experts that the mean token is not sent to."""
    used_again: float = 0.0
    """Of the matrices, weights that are counted in another already: the head, in multi-token prediction."""
    ffn_experts: float = 0.0
    assumptions: tuple[str, ...] = field(default=())

    def flops(self, sequence_length: int, scores: Scores = "causal") -> dict[str, Flops]:
        """FLOP of one token by component."""
        parts = {name: flops.product(weights) for name, weights in self.matrices.items()}
        parts["attention_scores"] = Flops(0.0, 0.0)
        for one in self.attentions:
            keys = flops.keys_read(sequence_length, scores, one.window)
            parts["attention_scores"] += flops.attention_scores(one.heads, one.key_dim, one.value_dim, keys).times(
                one.layers
            )
        return parts

    def workload(self) -> Workload:
        """The same, ready to be counted."""
        head = self.hidden_size * self.vocabulary if self.tied else 0
        activated = sum(self.matrices.values()) - self.used_again
        n = activated - head + self.embedding_parameters + self.norm_and_bias_parameters
        return Workload(
            family=self.family,
            mixture="routed_experts" in self.matrices,
            layers=self.layers,
            hidden_size=self.hidden_size,
            vocabulary=self.vocabulary,
            total_parameters=round(n + self.inactive_expert_parameters),
            activated_parameters=activated,
            formula_parameters=n,
            embedding_parameters=self.embedding_parameters - head,
            attention_width=sum(a.layers * a.heads * (a.key_dim + a.value_dim) / 2 for a in self.attentions),
            ffn_experts=self.ffn_experts,
            flops=self.flops,
            assumptions=self.assumptions,
        )


def longcat_workload(model: ModelConfig, ffn_experts: float | None = None, family: str = "longcat") -> Workload:
    """A LongCat model.

    Args:
        model: the model.
        ffn_experts: mean routed experts of a token, best as measured; `expected_ffn_experts` when none.
        family: its model type.

    Raises:
        ConfigError: more experts than a token is sent to.
    """
    assumptions: tuple[str, ...] = ()
    if ffn_experts is None:
        ffn_experts = flops.expected_ffn_experts(model)
        if model.zero_expert_num:
            assumptions = (f"{ffn_experts:g} routed experts a token, as if all experts were chosen equally often",)
    most = min(model.moe_topk, model.n_routed_experts)
    if not 0 <= ffn_experts <= most * 1.000001:
        raise ConfigError(f"{ffn_experts:g} routed experts a token: it is sent to {most} at most")
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
    )


def sized_workload(
    parameters: float,
    *,
    layers: int | None = None,
    hidden_size: int | None = None,
    vocabulary: int | None = None,
    total_parameters: float | None = None,
) -> Workload:
    """A model of which only sizes are known.

    Args:
        parameters: N, as published: activated for a token, with embedding.
        layers: with the hidden size, counts attention scores (full heads, as in a plain decoder).
        hidden_size: of the residual stream.
        vocabulary: with the hidden size, leaves the embedding out of the matrices.
        total_parameters: of a mixture; a dense model if none.

    Raises:
        ConfigError: the sizes contradict one another.
    """
    if total_parameters is not None and total_parameters < parameters:
        raise ConfigError(f"{total_parameters:g} parameters in total are fewer than {parameters:g} activated")
    assumptions = []
    if layers is None or hidden_size is None:
        assumptions.append("attention scores are not counted, as layers and hidden size are not given")
    if vocabulary is None or hidden_size is None:
        assumptions.append("the embedding counts as a matrix, as vocabulary and hidden size are not given")
    embedding = (vocabulary or 0) * (hidden_size or 0)
    if embedding >= parameters:
        raise ConfigError(f"{parameters:g} parameters are fewer than the embedding of {embedding:g}")
    decoder = Decoder(
        family="given sizes",
        layers=layers or 0,
        hidden_size=hidden_size or 0,
        vocabulary=vocabulary or 0,
        matrices={"weights": parameters - embedding},
        attentions=(Attention(layers, 1, hidden_size, hidden_size),) if layers and hidden_size else (),
        embedding_parameters=embedding,
        norm_and_bias_parameters=0,
        tied=False,
        inactive_expert_parameters=0.0 if total_parameters is None else total_parameters - parameters,
        assumptions=tuple(assumptions),
    )
    return replace(decoder.workload(), mixture=total_parameters is not None)
