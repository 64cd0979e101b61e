"""Floating-point operations of LongCat, per token and component, from the configuration alone.

A matrix product of `[m, k]` and `[k, n]` costs 2mkn. Its backward pass costs twice that, one product for the gradient of
each factor. Norms, softmax, rotary embedding, activations and look-ups (embedding, n-gram tables) are not counted, as in
PaLM (arXiv 2204.02311, appendix B) and Megatron (arXiv 2104.04473).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from longcat.config import ModelConfig
from longcat.costs.products import Product
from longcat.costs.stages import Held

Scores = Literal["causal", "full"]
"""Attention scores that count: `causal`, the used half of the square, or `full`, the whole square as in PaLM."""


@dataclass(frozen=True)
class Flops:
    """FLOP of one token, forward and backward."""

    forward: float
    backward: float
    weight_gradient: float = 0.0
    """Part of the backward pass that computes gradients of weights; frozen weights do without."""

    @property
    def training(self) -> float:
        """Return the FLOP of both passes."""
        return self.forward + self.backward

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.forward + other.forward,
            self.backward + other.backward,
            self.weight_gradient + other.weight_gradient,
        )

    def times(self, factor: float) -> Flops:
        """Multiply all counts by a factor."""
        return Flops(factor * self.forward, factor * self.backward, factor * self.weight_gradient)

    def trained(self, fraction: float) -> Flops:
        """Return the count where only this fraction of the weights has a gradient, which still passes through all."""
        return Flops(
            self.forward, self.backward - (1 - fraction) * self.weight_gradient, fraction * self.weight_gradient
        )


def product(weights: float) -> Flops:
    """Count the product of one token with a number of weights: 2 FLOP per weight forward, 4 backward."""
    return Flops(2.0 * weights, 4.0 * weights, 2.0 * weights)


def activation_product(elements: float) -> Flops:
    """Count a product of two activations, as of queries and keys: its backward pass has no gradient of weights."""
    return Flops(2.0 * elements, 4.0 * elements)


def keys_read(sequence_length: int, scores: Scores, window: int | None = None) -> float:
    """Return the mean number of keys per query; within a window (or a sparse budget) the first queries have fewer.

    `full` gives every query as many keys as the last one has: the whole square, or the window.
    """
    most = sequence_length if window is None else min(window, sequence_length)
    return float(most) if scores == "full" else most * (1 - most / (2 * sequence_length))


def attention_scores(heads: int, key_dim: int, value_dim: int, keys: float) -> Flops:
    """Count queries times keys and probabilities times values of one attention, for one token."""
    return activation_product(heads * (key_dim + value_dim) * keys)


def matmul_parameters(model: ModelConfig, ffn_experts: float) -> dict[str, float]:
    """Count the weights that one token is multiplied by, by component.

    Args:
        model: the model.
        ffn_experts: mean routed experts per token; zero-computation experts have no weights.
    """
    hidden, layers = model.hidden_size, model.num_layers
    counts = {
        "attention_projections": 2 * layers * _mla(model),
        "indexer_projections": layers * _indexer(model),
        "dense_ffn": 2 * layers * 3 * hidden * model.ffn_hidden_size,
        "router": layers * hidden * (model.n_routed_experts + model.zero_expert_num),
        "routed_experts": layers * ffn_experts * 3 * hidden * model.expert_ffn_hidden_size,
        "lm_head": hidden * model.vocabulary,
        "ngram_projection": 0 if model.ngram is None else hidden * hidden,
    }
    return {name: float(count) for name, count in counts.items() if count}


def shapes(model: ModelConfig, ffn_experts: float) -> tuple[Product, ...]:
    """Return the matrices of LongCat by shape, multi-token prediction and indexers among them."""
    hidden, layers = model.hidden_size, model.num_layers
    depths, sparse = model.mtp_num_layers, model.sparse_attention

    def sublayer(attention: str, ffn: str, count: int) -> list[Product]:
        heads, latents = model.num_attention_heads, model.q_lora_rank + model.kv_lora_rank + model.qk_rope_head_dim
        query, key = model.qk_nope_head_dim + model.qk_rope_head_dim, model.qk_nope_head_dim + model.v_head_dim
        return [
            Product(attention, count, hidden, latents, kept=True),
            Product(attention, count, model.q_lora_rank, heads * query, "outputs", kept=True),
            Product(attention, count, model.kv_lora_rank, heads * key, "outputs", kept=True),
            Product(attention, count, heads * model.v_head_dim, hidden, "inputs"),
            Product(ffn, count, hidden, 2 * model.ffn_hidden_size, "outputs", kept=True),
            Product(ffn, count, model.ffn_hidden_size, hidden, "inputs"),
        ]

    expert, experts = model.expert_ffn_hidden_size, model.n_routed_experts
    found = [
        *sublayer("attention_projections", "dense_ffn", 2 * layers),
        Product("router", layers, hidden, experts + model.zero_expert_num, kept=True),
        Product("routed_experts", layers, hidden, 2 * expert, kept=True, chosen=ffn_experts, copies=experts),
        Product("routed_experts", layers, expert, hidden, chosen=ffn_experts, copies=experts),
        Product("lm_head", 1, hidden, model.vocabulary, "outputs", kept=True),
    ]
    if sparse is not None:
        width = sparse.index_head_dim + sparse.index_n_heads
        found.append(Product("indexer_projections", layers, hidden, width, kept=True))
        heads = sparse.index_n_heads * sparse.index_head_dim
        found.append(Product("indexer_projections", layers, model.q_lora_rank, heads, kept=True))
    if model.ngram is not None:
        found.append(Product("ngram_projection", 1, hidden, hidden, kept=True))
    if depths:
        found += [*sublayer("mtp", "mtp", depths), Product("mtp", depths, 2 * hidden, hidden, kept=True)]
        found.append(Product("mtp", depths, hidden, model.vocabulary, "outputs", kept=True))
    return tuple(found)


def _mla(model: ModelConfig) -> int:
    heads, hidden = model.num_attention_heads, model.hidden_size
    return (
        hidden * model.q_lora_rank
        + model.q_lora_rank * heads * (model.qk_nope_head_dim + model.qk_rope_head_dim)
        + hidden * (model.kv_lora_rank + model.qk_rope_head_dim)
        + model.kv_lora_rank * heads * (model.qk_nope_head_dim + model.v_head_dim)
        + _attention_output(model)
    )


def _attention_output(model: ModelConfig) -> int:
    return model.num_attention_heads * model.v_head_dim * model.hidden_size


def divided_in_sublayer(model: ModelConfig) -> int:
    """Count the weights of one attention and one dense sublayer that are divided over `tensor`: of heads and inner width."""
    heads = model.num_attention_heads * (
        model.q_lora_rank * (model.qk_nope_head_dim + model.qk_rope_head_dim)
        + model.kv_lora_rank * (model.qk_nope_head_dim + model.v_head_dim)
        + model.v_head_dim * model.hidden_size
    )
    return heads + 3 * model.hidden_size * model.ffn_hidden_size


def indexer_parameters(model: ModelConfig, held: Held) -> int:
    """Count the parameters of a stage's indexers."""
    if model.sparse_attention is None:
        return 0
    indexers = held.layers + (held.last and model.mtp_num_layers > 0)
    return indexers * (_indexer(model) + model.sparse_attention.index_head_dim)


def _indexer(model: ModelConfig) -> int:
    sparse = model.sparse_attention
    if sparse is None:
        return 0
    keys_and_weights = model.hidden_size * (sparse.index_head_dim + sparse.index_n_heads)
    return keys_and_weights + model.q_lora_rank * sparse.index_n_heads * sparse.index_head_dim


def _mtp(model: ModelConfig) -> int:
    """Count the matrix weights of the multi-token-prediction module without its indexer; every depth uses all."""
    hidden = model.hidden_size
    if not model.mtp_num_layers:
        return 0
    return 2 * hidden * hidden + _mla(model) + 3 * hidden * model.ffn_hidden_size


def expected_ffn_experts(model: ModelConfig) -> float:
    """Return the mean routed experts per token if every expert, of both kinds, is chosen equally often."""
    return model.moe_topk * model.n_routed_experts / (model.n_routed_experts + model.zero_expert_num)


def activated_parameters(model: ModelConfig, ffn_experts: float) -> float:
    """Count the weights that a token is multiplied by with `ffn_experts` routed experts in every layer."""
    return sum(matmul_parameters(model, ffn_experts).values())


def flops_per_token(
    model: ModelConfig, sequence_length: int, ffn_experts: float | None = None, scores: Scores = "causal"
) -> dict[str, Flops]:
    """Count the FLOP of one token, by component.

    Args:
        model: the model.
        sequence_length: tokens that attention sees.
        ffn_experts: mean routed experts per token, best as measured; `expected_ffn_experts` if None.
        scores: which attention scores count.
    """
    if ffn_experts is None:
        ffn_experts = expected_ffn_experts(model)
    flops = {name: product(weights) for name, weights in matmul_parameters(model, ffn_experts).items()}
    sparse = model.sparse_attention
    read = keys_read(sequence_length, scores, None if sparse is None else sparse.index_topk)
    key_dim = model.qk_nope_head_dim + model.qk_rope_head_dim
    one_attention = attention_scores(model.num_attention_heads, key_dim, model.v_head_dim, read)
    flops["attention_scores"] = one_attention.times(2 * model.num_layers)
    one_index = Flops(0.0, 0.0)
    if sparse is not None:
        # its inputs are detached: the weights have a gradient, the inputs none
        flops["indexer_projections"] = _detached_indexer(model).times(model.num_layers)
        # forward over all keys before the query, backward over those read
        width = sparse.index_n_heads * sparse.index_head_dim
        one_index = Flops(2.0 * width * keys_read(sequence_length, scores), 4.0 * width * read)
        flops["index_scores"] = one_index.times(model.num_layers)
    if model.mtp_num_layers:
        depth = product(_mtp(model) + model.hidden_size * model.vocabulary) + one_attention
        # the first depth chooses the keys for all
        flops["mtp"] = depth.times(model.mtp_num_layers) + one_index + _detached_indexer(model)
    return flops


def recomputed_fractions(model: ModelConfig, recomputation: Literal["none", "selective", "full"]) -> dict[str, float]:
    """Return the fraction of each component's forward pass that LongCat's own training computes again (longcat.model.recomputation)."""
    if recomputation == "none":
        return {}
    # the last product of a sublayer is needed by nothing in it
    attention = 1.0 if recomputation == "full" else 1 - _attention_output(model) / _mla(model)
    feed_forward = 1.0 if recomputation == "full" else 2 / 3
    fractions = {
        "attention_projections": attention,
        "indexer_projections": 1.0,
        "dense_ffn": feed_forward,
        "routed_experts": feed_forward,
    }
    if model.mtp_num_layers:
        dense = 3 * model.hidden_size * model.ffn_hidden_size
        again = attention * _mla(model) + feed_forward * dense
        fractions["mtp"] = again / (_mtp(model) + model.hidden_size * model.vocabulary)
    if recomputation == "full":
        fractions |= {"router": 1.0, "attention_scores": 1.0, "index_scores": 1.0}
    return fractions


def _detached_indexer(model: ModelConfig) -> Flops:
    """Count the projections of one indexer, whose inputs need no gradient."""
    return Flops(2.0 * _indexer(model), 2.0 * _indexer(model), 2.0 * _indexer(model))


def training_flops_per_token(
    model: ModelConfig, sequence_length: int, ffn_experts: float | None = None, attention: Scores = "causal"
) -> dict[str, float]:
    """Count the FLOP of both passes for one token, by component; see `flops_per_token`."""
    parts = flops_per_token(model, sequence_length, ffn_experts, attention)
    return {name: flops.training for name, flops in parts.items()}


def parameters(model: ModelConfig, held: Held | None = None) -> dict[str, int]:
    """Count all parameters, by component, or those of a stage of a pipeline; the router's selection bias is not a parameter.

    The last stage has a copy of the word embedding for multi-token prediction, which counts where the first one is another.
    """
    layers, first, last = held or Held(model.num_layers, True, True)
    predicts = last and model.mtp_num_layers > 0
    outside = {"ngram_projection": first, "lm_head": last}
    counts = {
        name: int(count) * outside[name] if name in outside else int(count) * layers // model.num_layers
        for name, count in matmul_parameters(model, model.n_routed_experts).items()
    }
    norms = 2 * layers * (2 * model.hidden_size + model.q_lora_rank + model.kv_lora_rank) + model.hidden_size * last
    if predicts:
        counts["mtp"] = _mtp(model) + _indexer(model)
        norms += 5 * model.hidden_size + model.q_lora_rank + model.kv_lora_rank
    if model.sparse_attention is not None:
        norms += (layers + predicts) * model.sparse_attention.index_head_dim
    biases = 0
    if model.attention_bias:
        rows = model.q_lora_rank + model.kv_lora_rank + model.qk_rope_head_dim + model.hidden_size
        biases = (2 * layers + predicts) * rows
    if model.ngram is not None and first:
        counts["ngram_tables"] = sum(model.ngram.rows(model.vocabulary)) * (model.hidden_size // model.ngram.branches)
    embedding = model.hidden_size * model.vocabulary * (first or predicts)
    return counts | {"embedding": embedding, "norms_and_biases": norms + biases}
