"""A decoder of a common family, described by its matrices, as a workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from longcat.costs import flops
from longcat.costs.attention import Attention, Mixer
from longcat.costs.flops import Flops, Scores
from longcat.costs.products import Product
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


@dataclass(frozen=True)
class Decoder:
    """A decoder of a common family, described by its matrices."""

    family: str
    layers: int
    hidden_size: int
    vocabulary: int
    matrices: Mapping[str, float]
    """Weights that a token is multiplied by, by component; routed experts by the mean number per token."""
    mixers: tuple[Mixer, ...]
    embedding_parameters: int
    """Parameters of embedding and positions, a tied head included."""
    norm_and_bias_parameters: int
    tied: bool
    """Whether the head shares its weights with the embedding."""
    inactive_expert_parameters: float = 0.0
    """Weights of the routed experts that a mean token is not routed to."""
    shared_parameters: float = 0.0
    """Weights in `matrices` that are counted again: the head in multi-token prediction, layers that share their weights."""
    ffn_experts: float = 0.0
    forward_only: tuple[str, ...] = ()
    """Components of `matrices` that no gradient reaches, as their results only choose."""
    assumptions: tuple[str, ...] = field(default=())
    shapes: tuple[Product, ...] = ()
    """Those of `matrices` whose shapes are known."""

    def flops(self, sequence_length: int, scores: Scores = "causal") -> dict[str, Flops]:
        """Return the FLOP of one token by component."""
        parts = {name: flops.product(weights) for name, weights in self.matrices.items()}
        parts |= {name: Flops(parts[name].forward, 0.0) for name in self.forward_only if name in parts}
        for mixer in self.mixers:
            parts[mixer.component] = parts.get(mixer.component, Flops(0.0, 0.0)) + mixer.flops(sequence_length, scores)
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
            attention_width=sum(one.width for one in self.mixers),
            ffn_experts=self.ffn_experts,
            flops=self.flops,
            assumptions=self.assumptions,
            shapes=self.shapes,
            mixers=self.mixers,
        )


def sized_workload(
    parameters: float,
    *,
    layers: int | None = None,
    hidden_size: int | None = None,
    attention_width: int | None = None,
    vocabulary: int | None = None,
    total_parameters: float | None = None,
    window: int | None = None,
) -> Workload:
    """Return the workload of a model of which only sizes are known.

    Args:
        parameters: N, as published: activated per token, with embedding.
        layers: number of layers; with the attention width or the hidden size, attention scores are counted.
        hidden_size: width of the residual stream.
        attention_width: heads x head dimension of one layer, such as 64 x 64 for gpt-oss, whose hidden size is 2880;
            the hidden size if None. Where keys and values have different dimensions, heads x their mean.
        vocabulary: rows of the embedding; with the hidden size, the embedding is left out of the matrices.
        total_parameters: all parameters of a mixture; None for a dense model.
        window: keys that a query reads in every layer; None for all before it.

    Raises:
        ConfigError: the sizes contradict one another.
    """
    if layers is None and (attention_width is not None or window is not None):
        raise ConfigError("an attention width or a window needs the number of layers, too")
    if total_parameters is not None and total_parameters < parameters:
        raise ConfigError(f"{total_parameters:g} parameters in total are fewer than {parameters:g} activated")
    assumptions = []
    width = attention_width or hidden_size
    if layers is None or width is None:
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
        mixers=(Attention(layers, 1, width, width, window),) if layers and width else (),
        embedding_parameters=embedding,
        norm_and_bias_parameters=0,
        tied=False,
        inactive_expert_parameters=0.0 if total_parameters is None else total_parameters - parameters,
        assumptions=tuple(assumptions),
    )
    return replace(decoder.workload(), mixture=total_parameters is not None)
