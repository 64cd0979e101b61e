"""Memory of a training step of any decoder whose parameters are whole in each process but for heads, experts and stages.

That is Megatron's way: weights in bf16, gradients that wait for the end of the step, the optimizer's state (fp32 weights and two
moments) sharded over the processes with other rows. What is kept for the backward pass is counted by the products' shapes
(Korthikanti et al., arXiv 2205.05198, section 4): the inputs of all, and the results that the backward pass needs. LongCat's own
memory is that of `longcat.costs.memory`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from longcat.costs.products import Product

_BYTES, _STATE_BYTES = 2, 12
"""Of a weight or an activation, and of the optimizer's state for a parameter."""


@dataclass(frozen=True)
class Habits:
    """What a program does with memory beyond the layout."""

    tokens_divided: bool
    """Whether processes that share heads divide the tokens in between."""
    gradient_bytes: float
    copies: float
    """Of results of products that are kept."""
    norm_copies: float
    """Numbers that a norm keeps for each of its input, beyond that and its result."""
    score_bytes: float
    """Kept of each score of attention."""
    logits_divided_bytes: float
    logits_whole_bytes: float
    layer_bytes: float
    """Of a weight of the largest layer, while its gradients are added up."""
    recompute_copies: float


@dataclass(frozen=True)
class Divided:
    """How a stage of the model is divided."""

    tensor: int
    expert: int
    data: int
    """Processes that share the optimizer's state of what is not an expert."""
    expert_data: int
    """Processes that share the state of the same experts."""
    pipeline: int
    place: int
    """Of the process in the pipeline."""
    in_flight: float
    """Micro-batches whose activations are kept."""
    tokens: float
    """Of a micro-batch that processes which share heads compute together."""
    sequence_length: int
    recompute: Literal["none", "selective", "full"]


@dataclass(frozen=True)
class DecoderMemory:
    """What one process holds, in bytes."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    working: float
    """Gradients of a layer before they are added up, and what is computed again at once."""

    @property
    def peak(self) -> float:
        """Return the most that lives at once: the allocator does not give the logits back before the first layer's gradients."""
        return sum(asdict(self).values())

    def parts(self) -> dict[str, float]:
        """Return the bytes by use."""
        return asdict(self)


@dataclass(frozen=True)
class Sizes:
    """Of a decoder."""

    products: tuple[Product, ...]
    hidden: int
    vocabulary: int
    layers: int
    sublayers: float
    """Norms before attentions and feed-forward networks."""
    total_parameters: float
    score_heads: float
    """Heads of all attentions of all layers."""
    tied: bool


def held_parameters(sizes: Sizes, of: Divided) -> tuple[float, float]:
    """Return the parameters that a process holds: all but routed experts, and these."""
    layers = [one for one in sizes.products if one.component not in ("lm_head", "ngram_projection")]
    divided = sum(one.parameters / (1 if one.divided == "whole" else of.tensor) for one in layers if not one.routed)
    experts = sum(one.parameters for one in layers if one.routed) / of.expert
    words = sizes.hidden * sizes.vocabulary / of.tensor
    both = of.pipeline == 1 and not sizes.tied
    ends = words * ((of.place == 0) + (of.place == of.pipeline - 1)) if of.pipeline > 1 else words * (1 + both)
    known = sum(one.parameters for one in layers) + sizes.hidden * sizes.vocabulary * (2 - sizes.tied)
    vectors = max(0.0, sizes.total_parameters - known)
    return (divided + vectors) / of.pipeline + ends, experts / of.pipeline


def kept_of_layers(sizes: Sizes, of: Divided, habits: Habits) -> float:
    """Return the bytes that all layers of the model keep of a micro-batch in one process."""
    own = of.tokens / of.tensor if habits.tokens_divided else of.tokens
    whole, divided, seen = 0.0, 0.0, set()
    for one in sizes.products:
        if one.component in ("lm_head", "ngram_projection"):
            continue
        inputs, outputs = one.layers * one.inputs * one.chosen, one.layers * one.outputs * one.chosen * one.kept
        if one.routed:  # rows come to the process, and go back before they are weighed
            outputs += 0 if one.kept else one.layers * one.outputs * one.chosen
            divided += (inputs + habits.copies * outputs) * of.tokens / of.tensor
        elif one.divided == "inputs":
            divided += inputs * of.tokens / of.tensor
        else:
            tokens = of.tokens / of.tensor if one.divided == "outputs" else own
            divided += habits.copies * outputs * tokens
            if one.inputs == sizes.hidden:  # several products of one component have one input
                whole += 0 if one.component in seen else inputs * own
                seen.add(one.component)
            else:
                whole += inputs * own
    norms = sizes.sublayers * sizes.hidden * own * (1 + habits.norm_copies)
    scores = sizes.score_heads * of.tokens / of.tensor * of.sequence_length * habits.score_bytes
    if of.recompute == "selective":
        scores = 0.0
    return _BYTES * (whole + divided + norms) + scores


def decoder_memory(sizes: Sizes, of: Divided, habits: Habits) -> DecoderMemory:
    """Return the memory of the process at a place of the pipeline."""
    dense, experts = held_parameters(sizes, of)
    share = 1 / of.pipeline
    kept = kept_of_layers(sizes, of, habits)
    layer = kept / sizes.layers
    own = of.tokens / of.tensor if habits.tokens_divided else of.tokens
    activations, again = share * of.in_flight * kept, 0.0
    if of.recompute == "full":
        activations = share * of.in_flight * sizes.layers * sizes.hidden * own * _BYTES
        again = habits.recompute_copies * layer
    last = of.place == of.pipeline - 1
    logits = of.tokens * sizes.vocabulary * (habits.logits_divided_bytes / of.tensor + habits.logits_whole_bytes)
    return DecoderMemory(
        weights=_BYTES * (dense + experts),
        gradients=habits.gradient_bytes * (dense + experts),
        optimizer=_STATE_BYTES * (dense / of.data + experts / of.expert_data),
        activations=activations,
        logits=logits * last,
        working=again + habits.layer_bytes * _largest(sizes, of),
    )


def _largest(sizes: Sizes, of: Divided) -> float:
    """Return the parameters of a layer that are gathered into one gradient, without its routed experts."""
    layers: Sequence[Product] = [one for one in sizes.products if one.component not in ("lm_head", "ngram_projection")]
    return sum(
        one.parameters / one.layers / (of.expert if one.routed else of.tensor)
        for one in layers
        if one.layers and not one.routed and one.component in ("dense_ffn", "attention_projections")
    )
