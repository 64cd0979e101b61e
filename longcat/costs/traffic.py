"""Bytes that a process sends along each axis of parallelism in a training step, by closed formulas over its stages.

Collectives count as their ring algorithms send: a buffer of S bytes over n processes takes (n-1)/n S of each to gather or
to reduce and scatter, twice that to reduce for all. Weights are gathered in each micro-batch, in a pipeline once a step;
gradients of what learns in the phase are summed once a step, in fp32. What Muon sends to the owners of matrices, norms and losses are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from longcat.config import ModelConfig, Phase
from longcat.costs.flops import divided_in_sublayer, indexer_parameters, parameters
from longcat.costs.memory import freed_weights
from longcat.costs.stages import Held, Schedule, held_by, stage_owner, stages_in_all, stages_of

_GRADIENT_BYTES, _ROUTER_BYTES, _STATISTIC_BYTES, _LOSS_BYTES, _NUMBER_BYTES = 4, 4, 4, 4, 8
"""Of an element of a gradient, of a router's weights, which compute in fp32, of its statistics, of a sum of losses, and of a
count or a row's number."""


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
    phase: Phase = "sparse"
    """How attention is trained, in a model with indexers."""
    recomputed: bool = False
    """Whether the backward pass repeats the layers' forward pass, exchanges included."""
    spread_tables: bool = False
    """Whether the rows of n-gram tables are spread (`parallel.embedding`) instead of gathered."""
    table_rows: float | None = None
    """Distinct rows of spread tables that it looks up, added over micro-batches; None leaves out the axis of tables."""
    memory_bytes: float = math.inf
    """Of a device: weights that take too much of it are freed after each forward pass and gathered a second time."""
    schedule: Schedule = "1f1b"
    """Of the pipeline."""

    def phase_of(self, model: ModelConfig) -> Phase | None:
        """Return the phase of a model with indexers, None of any other."""
        return None if model.sparse_attention is None else self.phase


def step_traffic(model: ModelConfig, degrees: Mapping[str, int], step: Step) -> dict[str, float]:
    """Return the bytes that leave a process along each axis, for axes with more than one process.

    Of a pipeline it is the process that sends most along an axis. While indexers warm up, `tensor` has no formula: scores of
    all keys travel. `hidden states` are between stages, `word embedding` is
    between both copies of it; each other axis has the name it has in `longcat.parallel.axes`.

    Args:
        model: the model.
        degrees: processes along each axis of `longcat.parallel.axes`, 1 if not named.
        step: the work of a process.
    """
    found: dict[str, float] = {}
    for place in range(degrees.get("pipeline", 1)):
        for axis, size in place_traffic(model, degrees, step, place).items():
            found[axis] = max(size, found.get(axis, 0.0))
    return found


def place_traffic(model: ModelConfig, degrees: Mapping[str, int], step: Step, place: int) -> dict[str, float]:
    """Return the bytes that leave the process at a place along `pipeline`, see `step_traffic`."""
    pipeline, tensor = degrees.get("pipeline", 1), degrees.get("tensor", 1)
    stages = held_by(step.schedule, place, pipeline, model.num_layers)
    found = _of_weights(model, degrees, step, stages)
    rows_over = [axis for axis in ("context", "tensor") if degrees.get(axis, 1) > 1]
    label, processes = " x ".join(rows_over), math.prod(degrees[axis] for axis in rows_over)
    found[label] = found.get(label, 0.0) + sum(_keys_of_rows(model, held, processes, step) for held in stages)
    if tensor > 1 and step.phase_of(model) == "warmup":
        del found["tensor"]
    elif tensor > 1:
        found["tensor"] += sum(_tokens_of_heads(model, held, tensor, step) for held in stages)
    # a slot crosses there and back in each pass; indexers that warm up learn from no expert
    warmup = step.phase_of(model) == "warmup"
    forward = 2 if step.recomputed else 1
    rows = 2 * (forward + (not warmup)) * step.tokens * step.ffn_experts * model.hidden_size * step.element_bytes
    counts_first = forward * step.micro_batches * model.n_routed_experts * _NUMBER_BYTES
    of_layers = sum(held.layers for held in stages) * (rows + counts_first)
    found["expert"] = of_layers * bus_factor("all_to_all", degrees.get("expert", 1))
    if model.ngram is not None and step.spread_tables and step.table_rows is not None and stages[0].first:
        width, holders = model.hidden_size // model.ngram.branches, degrees.get("embedding", 1)
        row = _NUMBER_BYTES + width * (step.element_bytes + (0 if warmup else _GRADIENT_BYTES))
        asked = step.micro_batches * holders * _NUMBER_BYTES
        found["embedding"] = (step.table_rows * row + asked) * bus_factor("all_to_all", holders)
    if pipeline > 1:
        embedding = model.hidden_size * model.vocabulary / (tensor * degrees.get("dense_shard", 1))
        found |= _between_stages(model, step, place, pipeline, embedding)
    return {axis: size for axis, size in found.items() if size}


def _of_weights(model: ModelConfig, degrees: Mapping[str, int], step: Step, stages: Sequence[Held]) -> dict[str, float]:
    """Return what a process sends to gather the weights of its stages, and to sum their gradients."""

    def sent(name: str, axis: str, size: float) -> float:
        return size * bus_factor(name, degrees.get(axis, 1))

    phase = step.phase_of(model)

    def gathers(freed: bool, learn: bool = True) -> int:
        again = freed and (learn or phase != "warmup")
        if degrees.get("pipeline", 1) == 1:
            return step.micro_batches * (2 if again else 1)
        # backward passes of a stage free nothing: each forward pass but the last one has the next pass gather again
        return step.micro_batches + again if freed else 1

    gathered = dict.fromkeys(("dense_shard", "expert_shard"), 0.0)
    numbers, in_all_parts = dict(gathered), 0.0
    for held in stages:
        counts = parameters(model, held)
        tables = 0 if step.spread_tables else counts.get("ngram_tables", 0)
        divided, experts = divided_parameters(model, held), counts["routed_experts"] / degrees.get("expert", 1)
        everywhere = sum(counts.values()) - counts.get("ngram_tables", 0) + tables - counts["routed_experts"] - divided
        dense = everywhere + divided / degrees.get("tensor", 1)
        outside = (counts["embedding"] + counts["lm_head"]) / degrees.get("tensor", 1)
        outside += counts.get("ngram_projection", 0) + tables + model.hidden_size * held.last  # and the last norm
        in_layers = (dense - outside - counts["router"]) * step.element_bytes + counts["router"] * _ROUTER_BYTES
        freed = freed_weights(dense + experts, experts, step.element_bytes, step.memory_bytes / len(stages))
        gathered["dense_shard"] += (
            gathers(False) * outside * step.element_bytes + gathers("layers" in freed) * in_layers
        )
        gathered["expert_shard"] += gathers("experts" in freed, learn=False) * experts * step.element_bytes
        indexers = indexer_parameters(model, held)
        if phase == "warmup":
            dense = everywhere = indexers
            experts = 0
        elif phase == "dense":
            dense, everywhere = dense - indexers, everywhere - indexers
        numbers["dense_shard"] += dense
        numbers["expert_shard"] += experts
        in_all_parts += everywhere
    found: dict[str, float] = {}
    for shards, copies in (("dense_shard", "replicate"), ("expert_shard", "expert_replicate")):
        gradients = numbers[shards] * _GRADIENT_BYTES
        found[shards] = sent("all_gather", shards, gathered[shards]) + sent("reduce_scatter", shards, gradients)
        found[copies] = sent("all_reduce", copies, gradients / degrees.get(shards, 1))
    parts = in_all_parts * _GRADIENT_BYTES / degrees.get("dense_shard", 1)
    return found | {"tensor": sent("all_reduce", "tensor", parts)}


def divided_parameters(model: ModelConfig, held: Held | None = None) -> int:
    """Count the parameters whose matrices are divided over `tensor`, or a stage's: of heads, dense networks and the vocabulary."""
    counts = parameters(model, held)
    layers, _, last = held or Held(model.num_layers, True, True)
    sublayers = 2 * layers + (last and model.mtp_num_layers > 0)
    return sublayers * divided_in_sublayer(model) + counts["embedding"] + counts["lm_head"]


def _between_stages(model: ModelConfig, step: Step, place: int, processes: int, embedding: float) -> dict[str, float]:
    """Return what a process of a pipeline sends to those of other stages, this one's shard of the word `embedding` included.

    Hidden states go to the stage behind, their gradients to the one before, each time with the sum of the losses. Both
    copies of the word embedding get the sum of their gradients.
    """
    last = stages_in_all(step.schedule, processes) - 1
    neighbours = [
        stage_owner(step.schedule, other, processes)
        for number in stages_of(step.schedule, place, processes)
        for other in (number - 1, number + 1)
        if 0 <= other <= last
    ]
    each = step.tokens * model.hidden_size * step.element_bytes + step.micro_batches * _LOSS_BYTES
    found = {"hidden states": float(sum(other != place for other in neighbours) * each)}
    ends = {0, stage_owner(step.schedule, last, processes)}
    if model.mtp_num_layers and len(ends) == 2 and place in ends and step.phase_of(model) != "warmup":
        found["word embedding"] = embedding * _GRADIENT_BYTES * bus_factor("all_reduce", 2)
    return found


def _tokens_of_heads(model: ModelConfig, held: Held, processes: int, step: Step) -> float:
    """Return what processes that divide heads send to one another for the tokens of all of them, in a stage.

    Before heads, dense networks and the vocabulary tokens are gathered, and after them sums are scattered; in the backward
    pass the other way round. With sparse attention chosen keys are gathered, and what indexers learn from is scattered.
    """
    depths, hidden = model.mtp_num_layers * held.last, model.hidden_size
    sublayers, heads_of_words = 2 * held.layers + depths, (1 + depths) * held.last
    to_heads, back = sublayers * (model.q_lora_rank + hidden), sublayers * 2 * hidden
    words = (held.first + bool(depths) + heads_of_words) * hidden
    # what multi-token prediction ends with is not made again
    forward_twice = (to_heads + back - depths * hidden) if step.recomputed else 0
    bytes_of_token = (2 * (to_heads + back + words) + forward_twice) * step.element_bytes
    bytes_of_token += heads_of_words * processes * 2 * _STATISTIC_BYTES
    if model.sparse_attention is not None and step.phase == "sparse":
        chosen = sublayers * model.sparse_attention.index_topk * (_NUMBER_BYTES + _STATISTIC_BYTES)
        bytes_of_token += (2 if step.recomputed else 1) * chosen
    return processes * step.tokens * bytes_of_token * bus_factor("all_gather", processes)


def _keys_of_rows(model: ModelConfig, held: Held, processes: int, step: Step) -> float:
    """Return what processes that divide the tokens of rows send to one another in a stage: compressed keys, routers' statistics.

    Each sublayer's latents and rope keys are gathered for whole rows, and their gradients come back summed; with sparse
    attention so are each layer's index keys.
    """
    depths = model.mtp_num_layers * held.last
    attentions = 2 * held.layers + depths
    latent, phase, index_keys = model.kv_lora_rank + model.qk_rope_head_dim, step.phase_of(model), 0
    if model.sparse_attention is not None and phase != "dense":
        index_keys = (held.layers + bool(depths)) * model.sparse_attention.index_head_dim
    forward = attentions * latent + index_keys
    backward = index_keys if phase == "warmup" else forward
    gathers = 2 if step.recomputed else 1
    whole = processes * step.tokens * step.element_bytes
    experts = model.n_routed_experts + model.zero_expert_num
    statistics = step.micro_batches * held.layers * 2 * experts * _STATISTIC_BYTES
    return (
        gathers * forward * whole * bus_factor("all_gather", processes)
        + backward * whole * bus_factor("reduce_scatter", processes)
        + statistics * bus_factor("all_reduce", processes)
    )
