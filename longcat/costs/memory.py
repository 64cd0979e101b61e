"""Memory of a training step in one process, by closed formulas over the configuration and the layout.

Weights, gradients and moments are those of mixed precision in `longcat.parallel` (Rajbhandari et al., arXiv 1910.02054, section
3.1), sharded over the processes. Activations are the tensors that the layers keep for the backward pass, counted in the
plain implementations of the operators. `longcat pretrain --dry-run` runs the step instead, which is exact and slower.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

from longcat.config import ModelConfig, ParallelConfig, TrainingConfig
from longcat.costs.flops import divided_in_sublayer, expected_ffn_experts, parameters
from longcat.costs.stages import Held, Schedule, held_by

FP32 = 4
_WIDTH = {"fp32": FP32, "bf16": 2}
GATHERED_SHARE = 0.25
"""Share of a device's memory that weights may take which stay gathered from the forward pass to the backward pass."""
Freed = Literal["experts", "layers"]
"""Weights that may be freed after a forward pass; those outside of layers never are."""
KEPT_LENGTH = 2048
"""Up to this length attention on a CPU keeps the probabilities for the backward pass; beyond it they are recomputed."""


@dataclass(frozen=True)
class Spread:
    """Numbers of processes that share each kind of thing; `Degrees` of `longcat.parallel.axes` has them."""

    processes: int = 1
    stages: int = 1
    """Of the pipeline: processes that have layers of their own."""
    dense: int = 1
    """Share each parameter of no routed expert."""
    holders: int = 1
    """Hold one set of routed experts."""
    expert: int = 1
    """Share all routed experts of a layer: those that hold a set, and those that each expert of it is sharded over."""
    tables: int = 1
    """Share the rows of n-gram tables, if these are spread."""
    tokens: int = 1
    """Divide the tokens of their rows."""
    heads: int = 1
    """Of these, divide heads, inner width and vocabulary, too."""
    batch: int = 1
    """Parts of a batch."""


class Numbers(NamedTuple):
    """Parameters that a process computes a stage with: its own experts, its part of what is divided."""

    embedding: float
    """Embeddings and the n-grams' projection, tables that are gathered included."""
    head: float
    layers: float
    """Without routed experts."""
    experts: float
    mtp: float

    @property
    def outside(self) -> float:
        """What is in no layer, and gathered first."""
        return self.embedding + self.head

    @property
    def whole(self) -> float:
        """All of them."""
        return sum(self)


@dataclass(frozen=True)
class TrainingMemory:
    """What one process holds, in bytes."""

    weights: float
    """fp32 weights, and copies of them in the type of computation in a process that shards nothing."""
    optimizer: float
    """fp32 moments of the optimizer, and a number for each row that is moved late."""
    gradients: float
    """fp32 gradients, without those of rows that have gradients of their own, which depend on the batch."""
    accumulated: float
    """Gradients that wait for those of further micro-batches."""
    rows: float
    """Gradients of rows of spread tables, as many as are looked up if each is another one."""
    received: float
    """Room for hidden states, and their gradients, of all micro-batches that come from other stages."""
    gathered: float
    """Weights as they are computed with, where there are several processes: what stays from the forward pass to the backward."""
    in_flight: float
    """Gradients before they are summed and sharded: of what is differentiated last; in a pipeline, of all but a part."""
    activations: float
    """What the forward passes in flight keep for the backward pass."""
    logits: float
    """Of the chunk of tokens whose loss is computed."""
    working: float
    """The largest intermediate results of a layer's backward pass; rows on their way to experts are among them."""

    @property
    def states(self) -> float:
        """Return the sum of what a process holds whatever the batch is."""
        return self.weights + self.optimizer + self.gradients + self.gathered

    @property
    def peak(self) -> float:
        """Return the most that lives at once: at the turn to the backward pass, or when all gradients are there."""
        turn = self.accumulated + self.activations + max(self.logits, self.working)
        beside = self.weights + self.optimizer + self.gathered + self.rows + self.received
        return beside + max(turn, self.gradients + self.in_flight + self.working)

    def parts(self) -> dict[str, float]:
        """Return the bytes by use."""
        return asdict(self)


def training_memory(
    model: ModelConfig,
    training: TrainingConfig,
    spread: Spread,
    precision: Literal["bf16", "fp32"],
    parallel: ParallelConfig,
    sequence_length: int,
    memory_bytes: float = math.inf,
    kind: Literal["npu", "cuda", "cpu"] = "cpu",
) -> TrainingMemory:
    """Estimate the memory of a training step in the process that needs most.

    Args:
        model: the model.
        training: training settings.
        spread: the layout.
        precision: compute precision.
        parallel: settings of the layout; n-gram tables, chunks and the order of a pipeline matter.
        sequence_length: of a row, in tokens.
        memory_bytes: of a device: what is gathered stays gathered within a share of it.
        kind: of the device: a CPU keeps the probabilities of attention in short rows.
    """
    found = stage_memories(model, training, spread, precision, parallel, sequence_length, memory_bytes, kind)
    return max(found, key=lambda memory: memory.peak)


def stage_memories(
    model: ModelConfig,
    training: TrainingConfig,
    spread: Spread,
    precision: Literal["bf16", "fp32"],
    parallel: ParallelConfig,
    sequence_length: int,
    memory_bytes: float = math.inf,
    kind: Literal["npu", "cuda", "cpu"] = "cpu",
) -> list[TrainingMemory]:
    """Estimate the memory of a process of each place of the pipeline that differs: the first, the second and the last one."""
    places = sorted({0, min(1, spread.stages - 1), spread.stages - 1})
    return [
        _of_process(model, training, spread, precision, parallel, sequence_length, memory_bytes, kind, place)
        for place in places
    ]


def _flights(schedule: Schedule, place: int, processes: int, micro_batches: int) -> list[int]:
    """Return for each stage of a process how many of its micro-batches wait for their backward pass at most."""
    if processes == 1:
        flights = [1]
    elif schedule == "1f1b":
        flights = [processes - place]
    elif schedule == "interleaved":
        ahead = processes + 2 * (processes - 1 - place) + 1  # passes before the first backward one
        flights = [ahead - min(processes, ahead // 2), min(processes, ahead // 2)]
    else:  # a V's stages have as many micro-batches as lie between their forward and backward pass
        flights = [2 * processes - place, place + 1]
    return [min(flight, micro_batches) for flight in flights]


def _numbers(model: ModelConfig, spread: Spread, held: Held, spreads_tables: bool) -> Numbers:
    """Count the parameters of a stage."""
    counts = parameters(model, held)
    kept_elsewhere = divided_in_sublayer(model) * (1 - 1 / spread.heads)
    outside = ("ngram_tables", "embedding", "lm_head", "ngram_projection", "routed_experts", "mtp")
    layers = sum(of for name, of in counts.items() if name not in outside)
    embedding = counts["embedding"] / spread.heads + counts.get("ngram_projection", 0)
    embedding += 0 if spreads_tables else counts.get("ngram_tables", 0)
    return Numbers(
        embedding=embedding,
        head=counts["lm_head"] / spread.heads,
        layers=layers - 2 * held.layers * kept_elsewhere,
        experts=counts["routed_experts"] / spread.holders,
        mtp=counts["mtp"] - kept_elsewhere if "mtp" in counts else 0.0,
    )


def _of_process(
    model: ModelConfig,
    training: TrainingConfig,
    spread: Spread,
    precision: Literal["bf16", "fp32"],
    parallel: ParallelConfig,
    sequence_length: int,
    memory_bytes: float,
    kind: str,
    place: int,
) -> TrainingMemory:
    width = _WIDTH[precision]
    held = held_by(parallel.schedule, place, spread.stages, model.num_layers)
    counts = [parameters(model, one) for one in held]
    rows_alone = training.optimizer.lazy_ngram_moments
    spreads = parallel.spreads_tables(spread.processes // spread.stages, rows_alone)
    parts = [(one, _numbers(model, spread, one, spreads)) for one in held]
    experts_own = sum(of.experts for _, of in parts) * spread.holders / spread.expert
    own = sum(of.whole - of.experts for _, of in parts) / spread.dense + experts_own
    own_tables = sum(of.get("ngram_tables", 0) for of in counts) / spread.tables if spreads else 0.0
    # Muon has one moment for the matrices of the layers; AdamW two for everything
    vectors = sum(of["norms_and_biases"] + of["router"] for of in counts)
    matrices = sum(of.layers + of.mtp for _, of in parts) - vectors
    matrices += sum(of.get("ngram_projection", 0) for of in counts)
    one_moment = matrices / spread.dense + experts_own if training.optimizer.name == "muon" else 0.0
    last_steps = (
        0.0 if model.ngram is None or not (own_tables and rows_alone) else sum(model.ngram.rows(model.vocabulary))
    )
    moments = 2 * (own + own_tables) - one_moment + last_steps / spread.tables
    learnt = own + (0.0 if rows_alone else own_tables)
    alone = spread.processes == 1
    kept = sum(_gathered(of, one, width, memory_bytes / len(held)) for one, of in parts)
    micro_batch, micro_batches = _micro_batches(training, spread)
    tokens = micro_batch * sequence_length / spread.tokens
    # where there are copies, their memory is a weight's
    gradients = 0.0 if alone and precision != "fp32" else FP32 * learnt
    accumulated = gradients if alone else FP32 * sum(of.whole for _, of in parts)
    accumulated = 0.0 if micro_batches == 1 else accumulated
    largest = max(_largest(of, one) for one, of in parts)
    layer = max((of.layers + of.experts) / one.layers for one, of in parts)
    in_flight = 0.0 if alone else (width + FP32) * largest
    if spread.stages > 1:  # nothing is summed before the last backward pass is over
        in_flight = max(0.0, accumulated - gradients) + FP32 * largest
    flights = _flights(parallel.schedule, place, spread.stages, micro_batches)
    activations = sum(
        flight * tokens * _kept(model, training, one, spread, width, sequence_length, kind)
        + width * (1 + model.mtp_num_layers) * of.head  # the head's gradients, made with the loss
        for flight, (one, of) in zip(flights, parts, strict=True)
    )
    looked_up = micro_batches * tokens * model.hidden_size if own_tables else 0.0
    return TrainingMemory(
        weights=FP32 * (own + own_tables) + (0.0 if not alone or precision == "fp32" else (width + FP32) * own),
        optimizer=FP32 * (own_tables * 2 if rows_alone else 0.0) if training.optimizer.offload else FP32 * moments,
        gradients=gradients,
        accumulated=accumulated,
        rows=FP32 * min(looked_up, own_tables),
        gathered=0.0 if alone else width * kept,
        in_flight=in_flight,
        received=_received(held, spread, micro_batches) * tokens * model.hidden_size * width,
        activations=activations,
        logits=max(width * of.head for _, of in parts),
        working=tokens
        * _working(model, spread, parallel, width, sequence_length, training.activation_checkpointing, kind)
        + (width * layer if accumulated and not alone else 0.0),
    )


def freed_weights(whole: float, experts: float, width: int, memory_bytes: float) -> frozenset[Freed]:
    """Choose the weights that are freed after a forward pass and gathered a second time for the backward pass, experts first.

    Args:
        whole: numbers that a process gathers of its part of the model.
        experts: those of them that are its routed experts'.
        width: bytes of a number in the type of computation.
        memory_bytes: of the device, for this part of the model.
    """
    most = GATHERED_SHARE * memory_bytes / width
    if whole <= most:
        return frozenset()
    return frozenset({"experts"}) if whole - experts <= most else frozenset({"experts", "layers"})


def _gathered(numbers: Numbers, held: Held, width: int, memory_bytes: float) -> float:
    """Return the weights of a stage that stay gathered."""
    freed = freed_weights(numbers.whole, numbers.experts, width, memory_bytes)
    if "layers" in freed:
        return numbers.outside + 2 * (numbers.layers + numbers.experts) / held.layers
    if "experts" in freed:
        return numbers.whole - numbers.experts + 2 * numbers.experts / held.layers
    return numbers.whole


def _largest(numbers: Numbers, held: Held) -> float:
    """Return the weights of the largest part of a stage that is gathered at once."""
    return max(numbers.outside, (numbers.layers + numbers.experts) / held.layers, numbers.mtp)


def _received(held: list[Held], spread: Spread, micro_batches: int) -> int:
    """Count the hidden states that there is room for: of each micro-batch, from the stage before and the one behind."""
    if spread.stages == 1:
        return 0
    return micro_batches * sum((not one.first) + (not one.last) for one in held)


def _micro_batches(training: TrainingConfig, spread: Spread) -> tuple[int, int]:
    """Return the rows of a micro-batch and the number of micro-batches."""
    rows = max(1, training.global_batch_sequences // spread.batch)
    micro_batch = min(rows, training.micro_batch_sequences or rows)
    return micro_batch, -(-rows // micro_batch)


def _kept(
    model: ModelConfig,
    training: TrainingConfig,
    held: Held,
    spread: Spread,
    width: int,
    sequence_length: int,
    kind: str,
) -> float:
    """Count the bytes that the forward pass of a stage keeps of a token."""
    hidden, mode = model.hidden_size, training.activation_checkpointing
    norm = 2 * FP32 + width  # a number's fp32 value, its normed one, and the result
    found = held.layers * _layer(model, spread, width, sequence_length, mode, kind)
    if not held.last:
        return found
    found += (norm + 2 * FP32) * hidden + width * hidden
    if model.mtp_num_layers:
        one = _attention(model, spread, width, sequence_length, kind) + _feed_forward(model, spread, width)
        one = one if mode == "none" else 3 * width * hidden
        found += model.mtp_num_layers * (one + 3 * norm * hidden + 2 * width * hidden)
    return found


def _layer(model: ModelConfig, spread: Spread, width: int, sequence_length: int, mode: str, kind: str) -> float:
    """Count the bytes that a layer keeps of a token."""
    hidden = model.hidden_size
    if mode == "full":
        return width * hidden
    slots = expected_ffn_experts(model)
    mixture = (
        FP32 * (model.n_routed_experts + model.zero_expert_num)
        + (FP32 * hidden if width != FP32 else 0)
        + slots * 3 * width * hidden
    )
    if mode == "selective":
        # the inputs of three sublayers, the norm that routing reads from, and attention's two results
        kept = width * (3 * hidden + 2 * model.num_attention_heads * model.v_head_dim)
        return mixture + kept + (2 * FP32 + width) * hidden
    inner = slots * 4 * width * model.expert_ffn_hidden_size
    sublayer = _attention(model, spread, width, sequence_length, kind) + _feed_forward(model, spread, width)
    return mixture + inner + 2 * sublayer


def _attention(model: ModelConfig, spread: Spread, width: int, sequence_length: int, kind: str) -> float:
    """Count what one attention keeps: a process has its part of the heads for the tokens of all that share these.

    Keys and values are those of the whole row, in the process that has the end of it; so are the latents that they come from.
    """
    norm = 2 * FP32 + width
    heads, key = model.num_attention_heads, model.qk_nope_head_dim + model.qk_rope_head_dim
    queries = heads * (key + 2 * model.v_head_dim)
    keys = heads * (key + model.qk_nope_head_dim + model.v_head_dim) * spread.tokens / spread.heads
    gathered = spread.tokens * (model.kv_lora_rank + model.qk_rope_head_dim) if spread.tokens > 1 else 0
    gathered += spread.heads * model.q_lora_rank if spread.heads > 1 else 0
    kept = heads * sequence_length / 2 if kind == "cpu" and sequence_length <= KEPT_LENGTH else 0
    norms = norm * (model.hidden_size + model.q_lora_rank + model.kv_lora_rank)
    return norms + width * (queries + keys + gathered + kept)


def _feed_forward(model: ModelConfig, spread: Spread, width: int) -> float:
    gathered = width * spread.heads * model.hidden_size if spread.heads > 1 else 0
    return (2 * FP32 + width) * model.hidden_size + gathered + 4 * width * model.ffn_hidden_size


def _working(
    model: ModelConfig,
    spread: Spread,
    parallel: ParallelConfig,
    width: int,
    sequence_length: int,
    mode: str,
    kind: str,
) -> float:
    """Count the bytes of a token that a layer's backward pass makes at once, with what it computes again."""
    slots = expected_ffn_experts(model)
    chunks = 1 if spread.holders == 1 else parallel.chunks
    experts = slots / chunks * width * 3 * (model.hidden_size + model.expert_ffn_hidden_size)
    feed_forward: float = width * model.ffn_hidden_size
    if mode == "none":
        return max(experts, feed_forward)
    if mode == "full":
        return _layer(model, spread, width, sequence_length, "none", kind) + max(experts, feed_forward)
    inner = slots * 4 * width * model.expert_ffn_hidden_size
    feed_forward += _feed_forward(model, spread, width) - width * model.hidden_size
    attention = _attention(model, spread, width, sequence_length, kind) - width * model.hidden_size
    return max(experts + inner, feed_forward, attention)
