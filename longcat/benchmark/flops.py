"""Floating-point operations of LongCat, per token and component, from the configuration alone.

A matrix product of `[m, k]` and `[k, n]` costs 2mkn. The backward pass costs twice the forward, so training costs three
times the sums below. Norms, softmax, rotary embedding, activations and the embedding's look-up are not counted, as in
PaLM (arXiv 2204.02311, appendix B) and Megatron (arXiv 2104.04473).
"""

from __future__ import annotations

from typing import Literal

from longcat.config import ModelConfig

BACKWARD_AND_FORWARD = 3


def matmul_parameters(model: ModelConfig, ffn_experts: float) -> dict[str, float]:
    """Weights that one token is multiplied by, by component.

    Args:
        model: the model.
        ffn_experts: mean routed experts of a token; zero-computation experts have no weights.
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


def _mla(model: ModelConfig) -> int:
    heads, hidden = model.num_attention_heads, model.hidden_size
    return (
        hidden * model.q_lora_rank
        + model.q_lora_rank * heads * (model.qk_nope_head_dim + model.qk_rope_head_dim)
        + hidden * (model.kv_lora_rank + model.qk_rope_head_dim)
        + model.kv_lora_rank * heads * (model.qk_nope_head_dim + model.v_head_dim)
        + heads * model.v_head_dim * hidden
    )


def _indexer(model: ModelConfig) -> int:
    sparse = model.sparse_attention
    if sparse is None:
        return 0
    keys_and_weights = model.hidden_size * (sparse.index_head_dim + sparse.index_n_heads)
    return keys_and_weights + model.q_lora_rank * sparse.index_n_heads * sparse.index_head_dim


def _mtp(model: ModelConfig) -> int:
    """Matrices of the multi-token-prediction module."""
    hidden = model.hidden_size
    if not model.mtp_num_layers:
        return 0
    return 2 * hidden * hidden + _mla(model) + _indexer(model) + 3 * hidden * model.ffn_hidden_size


def expected_ffn_experts(model: ModelConfig) -> float:
    """Mean routed experts of a token when every expert, of both kinds, is chosen equally often."""
    return model.moe_topk * model.n_routed_experts / (model.n_routed_experts + model.zero_expert_num)


def activated_parameters(model: ModelConfig, target_ffn_experts: float) -> dict[str, float]:
    """Weights a token is multiplied by: with no routed expert, with the wanted mean, and with all slots routed."""
    counts = {"min": 0.0, "mean": target_ffn_experts, "max": min(model.moe_topk, model.n_routed_experts)}
    return {name: sum(matmul_parameters(model, experts).values()) for name, experts in counts.items()}


def training_flops_per_token(
    model: ModelConfig,
    sequence_length: int,
    ffn_experts: float | None = None,
    attention: Literal["causal", "full"] = "causal",
) -> dict[str, float]:
    """FLOP of forward and backward pass for one token, by component.

    Args:
        model: the model.
        sequence_length: tokens that attention sees.
        ffn_experts: mean routed experts of a token, best as measured; `expected_ffn_experts` when none.
        attention: `causal` counts the scores that are used, half the square; `full` the whole square, as PaLM does.
    """
    if ffn_experts is None:
        ffn_experts = expected_ffn_experts(model)
    forward = {name: 2.0 * count for name, count in matmul_parameters(model, ffn_experts).items()}
    if "indexer_projections" in forward:  # its inputs are cut from the graph: no gradient of them
        forward["indexer_projections"] *= 2 / BACKWARD_AND_FORWARD
    heads, dims = model.num_attention_heads, model.qk_nope_head_dim + model.qk_rope_head_dim + model.v_head_dim
    before = sequence_length / 2 if attention == "causal" else float(sequence_length)
    read, sparse = before, model.sparse_attention
    if sparse is not None and sequence_length > sparse.index_topk:
        # the first queries have fewer keys than the budget
        read = sparse.index_topk * (1 - sparse.index_topk / (2 * sequence_length))
    scores = heads * 2.0 * dims * read
    forward["attention_scores"] = 2 * model.num_layers * scores
    depths, index_scores = model.mtp_num_layers, 0.0
    if sparse is not None:
        # forward over all keys before the query; backward, which the threefold below stands for, over those read
        index_scores = 2.0 * sparse.index_n_heads * sparse.index_head_dim * (before + 2 * read) / BACKWARD_AND_FORWARD
        forward["index_scores"] = model.num_layers * index_scores
    if depths:
        head = model.hidden_size * model.vocabulary
        forward["mtp"] = depths * (2.0 * (_mtp(model) + head) + scores) + index_scores
    return {name: BACKWARD_AND_FORWARD * flops for name, flops in forward.items()}


def parameters(model: ModelConfig) -> dict[str, int]:
    """All parameters, by component; the router's selection bias is none."""
    counts = {name: int(count) for name, count in matmul_parameters(model, model.n_routed_experts).items()}
    norms = 2 * model.num_layers * (2 * model.hidden_size + model.q_lora_rank + model.kv_lora_rank) + model.hidden_size
    attentions = 2 * model.num_layers
    if model.mtp_num_layers:
        counts["mtp"] = _mtp(model)
        norms += 5 * model.hidden_size + model.q_lora_rank + model.kv_lora_rank
        attentions += 1
    if model.sparse_attention is not None:
        norms += (model.num_layers + bool(model.mtp_num_layers)) * model.sparse_attention.index_head_dim
    biases = 0
    if model.attention_bias:
        rows = model.q_lora_rank + model.kv_lora_rank + model.qk_rope_head_dim + model.hidden_size
        biases = attentions * rows
    if model.ngram is not None:
        counts["ngram_tables"] = sum(model.ngram.rows(model.vocabulary)) * (model.hidden_size // model.ngram.branches)
    return counts | {"embedding": model.hidden_size * model.vocabulary, "norms_and_biases": norms + biases}
