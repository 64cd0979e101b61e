"""Workload of a model of any family: its parameter counts, and the FLOPs per token by component."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from longcat.config import ModelConfig
from longcat.costs import flops
from longcat.costs.flops import Flops, Scores
from longcat.errors import ConfigError


@dataclass(frozen=True)
class Attention:
    """Attention layers of one shape."""

    layers: int
    heads: int
    key_dim: int
    """Query and key dimensions per head."""
    value_dim: int
    """Value dimensions per head."""
    window: int | None = None
    """Maximum number of keys that a query reads; None for no limit."""


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

    def training_flops(self, sequence_length: int, scores: Scores = "causal") -> float:
        """Return the FLOP of forward and backward pass for one token."""
        return sum(part.training for part in self.flops(sequence_length, scores).values())


@dataclass(frozen=True)
class Decoder:
    """A decoder of a common family, described by its matrices."""

    family: str
    layers: int
    hidden_size: int
    vocabulary: int
    matrices: Mapping[str, float]
    """Weights that a token is multiplied by, by component; routed experts by the mean number per token."""
    attentions: tuple[Attention, ...]
    embedding_parameters: int
    """Parameters of embedding and positions, a tied head included."""
    norm_and_bias_parameters: int
    tied: bool
    """Whether the head shares its weights with the embedding."""
    inactive_expert_parameters: float = 0.0
    """Weights of the routed experts that a mean token is not routed to."""
    shared_parameters: float = 0.0
    """Weights in `matrices` that are counted in more than one: the head, in multi-token prediction."""
    ffn_experts: float = 0.0
    assumptions: tuple[str, ...] = field(default=())

    def flops(self, sequence_length: int, scores: Scores = "causal") -> dict[str, Flops]:
        """Return the FLOP of one token by component."""
        parts = {name: flops.product(weights) for name, weights in self.matrices.items()}
        parts["attention_scores"] = Flops(0.0, 0.0)
        for one in self.attentions:
            keys = flops.keys_read(sequence_length, scores, one.window)
            parts["attention_scores"] += flops.attention_scores(one.heads, one.key_dim, one.value_dim, keys).times(
                one.layers
            )
        return parts

    def workload(self) -> Workload:
        """Return the workload of this decoder."""
        head = self.hidden_size * self.vocabulary if self.tied else 0
        activated = sum(self.matrices.values()) - self.shared_parameters
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
    )


def sized_workload(
    parameters: float,
    *,
    layers: int | None = None,
    hidden_size: int | None = None,
    vocabulary: int | None = None,
    total_parameters: float | None = None,
) -> Workload:
    """Return the workload of a model of which only sizes are known.

    Args:
        parameters: N, as published: activated per token, with embedding.
        layers: number of layers; with the hidden size, attention scores are counted (full heads, plain decoder).
        hidden_size: width of the residual stream.
        vocabulary: rows of the embedding; with the hidden size, the embedding is left out of the matrices.
        total_parameters: all parameters of a mixture; None for a dense model.

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
