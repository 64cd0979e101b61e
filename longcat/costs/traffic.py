"""Bytes that a process sends along each axis of parallelism in a training step, by closed formulas.

Collectives count as their ring algorithms send: a buffer of S bytes over n processes takes (n-1)/n S of each to gather or
to reduce and scatter, twice that to reduce for all. Weights are gathered in each micro-batch; gradients are summed once a
step, in fp32. What Muon sends to the owners of matrices, norms and losses are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from longcat.config import ModelConfig
from longcat.costs.flops import divided_in_sublayer, parameters

_GRADIENT_BYTES, _ROUTER_BYTES, _STATISTIC_BYTES, _NUMBER_BYTES = 4, 4, 4, 8
"""Of an element of a gradient, of a router's weights, which compute in fp32, of its statistics, and of a count or a row's
number."""


def bus_factor(name: str, ranks: int) -> float:
    """Return the bytes that leave a rank for each byte of a collective's whole buffer, by ring algorithms.

    They are the factors between algorithm and bus bandwidth of nccl-tests (its doc/PERFORMANCE.md): 2 (n-1)/n for
    all-reduce, (n-1)/n for all-gather, reduce-scatter and all-to-all, 1 for broadcast and send.
    """
    if name in ("send", "broadcast"):
        return 1.0 if ranks > 1 else 0.0
    return (2 if name == "all_reduce" else 1) * (ranks - 1) / ranks


@dataclass(frozen=True)
class Step:
    """The work of one process in a step, as far as traffic depends on it."""

    tokens: int
    """That it computes: of its rows its own ones, where processes divide them."""
    micro_batches: int
    element_bytes: int
    """Of a number in the type of computation."""
    ffn_experts: float
    """Mean routed experts of a token."""
    sparse: bool = True
    """Whether indexers choose keys, in a model that has them."""
    recomputed: bool = False
    """Whether the backward pass repeats the layers' forward pass, exchanges included."""
    spread_tables: bool = False
    """Whether the rows of n-gram tables are spread (`parallel.embedding`) instead of gathered."""
    table_rows: float | None = None
    """Distinct rows of spread tables that it looks up, added over micro-batches; None leaves out the axis of tables."""
    dense_gathers: int = 1
    """How often a micro-batch gathers dense weights: 2 if what the forward pass gathered was freed after it."""
    expert_gathers: int = 1
    """The same of the routed experts' weights."""


def step_traffic(model: ModelConfig, degrees: Mapping[str, int], step: Step) -> dict[str, float]:
    """Return the bytes that leave a process along each axis, for axes with more than one process.

    Args:
        model: the model.
        degrees: processes along each axis of `longcat.parallel.axes`, 1 if not named.
        step: the work of the process.
    """

    def sent(name: str, axis: str, size: float) -> float:
        return size * bus_factor(name, degrees.get(axis, 1))

    counts = parameters(model)
    own_experts = counts["routed_experts"] / degrees.get("expert", 1)
    tables = counts.get("ngram_tables", 0) if step.spread_tables else 0
    everywhere = sum(counts.values()) - counts["routed_experts"] - tables - divided_parameters(model)
    dense = everywhere + divided_parameters(model) / degrees.get("tensor", 1)
    gathered = (dense - counts["router"]) * step.element_bytes + counts["router"] * _ROUTER_BYTES
    found: dict[str, float] = {}
    for shards, copies, numbers, size, gathers in (
        ("dense_shard", "replicate", dense, gathered, step.dense_gathers),
        ("expert_shard", "expert_replicate", own_experts, own_experts * step.element_bytes, step.expert_gathers),
    ):
        weights = step.micro_batches * gathers * size
        gradients = numbers * _GRADIENT_BYTES
        found[shards] = sent("all_gather", shards, weights) + sent("reduce_scatter", shards, gradients)
        found[copies] = sent("all_reduce", copies, gradients / degrees.get(shards, 1))
    rows_over = [axis for axis in ("context", "tensor") if degrees.get(axis, 1) > 1]
    found[" x ".join(rows_over)] = _keys_of_rows(model, math.prod(degrees[axis] for axis in rows_over), step)
    if (tensor := degrees.get("tensor", 1)) > 1:
        summed = sent("all_reduce", "tensor", everywhere * _GRADIENT_BYTES / degrees.get("dense_shard", 1))
        found["tensor"] = found.get("tensor", 0.0) + _tokens_of_heads(model, tensor, step) + summed
    # a slot crosses there and back in each pass
    passes = 6 if step.recomputed else 4
    rows = passes * step.tokens * step.ffn_experts * model.hidden_size * step.element_bytes
    counts_first = (passes // 2 - 1) * step.micro_batches * model.n_routed_experts * _NUMBER_BYTES
    found["expert"] = sent("all_to_all", "expert", model.num_layers * (rows + counts_first))
    if model.ngram is not None and step.spread_tables and step.table_rows is not None:
        width = model.hidden_size // model.ngram.branches
        row = _NUMBER_BYTES + width * (step.element_bytes + _GRADIENT_BYTES)
        asked = step.micro_batches * degrees.get("embedding", 1) * _NUMBER_BYTES
        found["embedding"] = sent("all_to_all", "embedding", step.table_rows * row + asked)
    return {axis: size for axis, size in found.items() if size}


def divided_parameters(model: ModelConfig) -> int:
    """Count the parameters whose matrices are divided over `tensor`: of heads, dense networks and the vocabulary."""
    sublayers = 2 * model.num_layers + bool(model.mtp_num_layers)
    return sublayers * divided_in_sublayer(model) + 2 * model.hidden_size * model.vocabulary


def _tokens_of_heads(model: ModelConfig, processes: int, step: Step) -> float:
    """Return what processes that divide heads send to one another for the tokens of all of them.

    Before heads, dense networks and the vocabulary tokens are gathered, and after them sums are scattered; in the backward
    pass the other way round. With sparse attention chosen keys are gathered, and what indexers learn from is scattered.
    """
    depths, hidden = model.mtp_num_layers, model.hidden_size
    sublayers, heads_of_words = 2 * model.num_layers + depths, 1 + depths
    to_heads, back = sublayers * (model.q_lora_rank + hidden), sublayers * 2 * hidden
    words = (1 + bool(depths) + heads_of_words) * hidden
    forward_twice = (to_heads + back) if step.recomputed else 0
    bytes_of_token = (2 * (to_heads + back + words) + forward_twice) * step.element_bytes
    bytes_of_token += heads_of_words * processes * 2 * _STATISTIC_BYTES
    if model.sparse_attention is not None and step.sparse:
        bytes_of_token += sublayers * model.sparse_attention.index_topk * (_NUMBER_BYTES + _STATISTIC_BYTES)
    return processes * step.tokens * bytes_of_token * bus_factor("all_gather", processes)


def _keys_of_rows(model: ModelConfig, processes: int, step: Step) -> float:
    """Return what processes that divide the tokens of rows send to one another: compressed keys, and statistics of routers.

    Each sublayer's latents and rope keys are gathered for whole rows, and their gradients come back summed; with sparse
    attention so are each layer's index keys.
    """
    attentions = 2 * model.num_layers + model.mtp_num_layers
    numbers = attentions * (model.kv_lora_rank + model.qk_rope_head_dim)
    if model.sparse_attention is not None and step.sparse:
        numbers += (model.num_layers + bool(model.mtp_num_layers)) * model.sparse_attention.index_head_dim
    whole = processes * step.tokens * numbers * step.element_bytes
    gathers = 2 if step.recomputed else 1
    experts = model.n_routed_experts + model.zero_expert_num
    statistics = step.micro_batches * model.num_layers * 2 * experts * _STATISTIC_BYTES
    return (
        gathers * whole * bus_factor("all_gather", processes)
        + whole * bus_factor("reduce_scatter", processes)
        + statistics * bus_factor("all_reduce", processes)
    )
