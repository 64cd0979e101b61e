"""Memory of a training step in one process, by closed formulas over the configuration and the layout.

Weights, gradients and moments are those of mixed precision in `longcat.parallel` (Rajbhandari et al., arXiv 1910.02054, section
3.1), sharded over the processes. Activations are the tensors that the layers keep for the backward pass, counted in the
plain implementations of the operators. `longcat pretrain --dry-run` runs the step instead, which is exact and slower.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

from longcat.config import ModelConfig, ParallelConfig, TrainingConfig
from longcat.costs.flops import expected_ffn_experts, parameters

FP32 = 4
_WIDTH = {"fp32": FP32, "bf16": 2}
_OUTSIDE = ("ngram_tables", "embedding", "lm_head", "ngram_projection")
"""Components (`longcat.costs.flops.parameters`) outside the layers."""
GATHERED_SHARE = 0.25
"""Share of a device's memory that weights may take which stay gathered from the forward pass to the backward pass."""
KEPT_LENGTH = 2048
"""Up to this length attention on a CPU keeps the probabilities for the backward pass; beyond it they are recomputed."""


@dataclass(frozen=True)
class Spread:
    """Numbers of processes that share each kind of thing; `Degrees` of `longcat.parallel.axes` has them."""

    processes: int = 1
    stages: int = 1
    """Of the pipeline: each has its layers, and a step has as many micro-batches in flight in the first one."""
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
    batch: int = 1
    """Parts of a batch."""


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
    gathered: float
    """Weights as they are computed with, where there are several processes: what stays from the forward pass to the backward."""
    in_flight: float
    """Gradients of what is differentiated last before it has been summed and sharded."""
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
        return self.weights + self.optimizer + self.gathered + max(turn, self.gradients + self.in_flight + self.working)

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
) -> TrainingMemory:
    """Estimate the memory of a training step in the process that needs most.

    Args:
        model: the model.
        training: training settings.
        spread: the layout.
        precision: compute precision.
        parallel: settings of the layout; n-gram tables and chunks matter.
        sequence_length: of a row, in tokens.
        memory_bytes: of a device: what is gathered stays gathered within a share of it.
    """
    width = _WIDTH[precision]
    counts = parameters(model)
    stage = math.ceil(model.num_layers / spread.stages) / model.num_layers
    rows_alone = training.optimizer.lazy_ngram_moments
    spreads = parallel.spreads_tables(spread.processes // spread.stages, rows_alone)
    tables = counts.get("ngram_tables", 0)
    experts = counts["routed_experts"] * stage / spread.holders
    layers = sum(of for name, of in counts.items() if name not in (*_OUTSIDE, "routed_experts")) * stage
    outside = sum(counts.get(name, 0) for name in _OUTSIDE) - (tables if spreads else 0)
    whole = outside + layers + experts
    own_tables = tables / spread.tables if spreads else 0.0
    own_experts = counts["routed_experts"] * stage / spread.expert
    own = (outside + layers) / spread.dense + own_experts
    # Muon has one moment for the matrices of the layers; AdamW two for everything
    others = counts["norms_and_biases"] + counts["router"]
    projections = layers - others * stage + counts.get("ngram_projection", 0)
    matrices = projections / spread.dense + own_experts
    one_moment = matrices if training.optimizer.name == "muon" else 0.0
    last_steps = 0.0 if model.ngram is None or not (spreads and rows_alone) else sum(model.ngram.rows(model.vocabulary))
    moments = 2 * (own + own_tables) - one_moment + last_steps / spread.tables
    learnt = own + (0.0 if rows_alone else own_tables)
    alone = spread.processes == 1
    kept, largest = _gathered(outside, layers, experts, stage * model.num_layers, memory_bytes / width)
    micro_batch, micro_batches = _micro_batches(training, spread)
    tokens = micro_batch * sequence_length / spread.tokens
    gradients = (
        0.0 if alone and precision != "fp32" else FP32 * learnt
    )  # where there are copies, their memory is a weight's
    activations = _activations(model, training, spread, width, tokens, sequence_length, stage)
    return TrainingMemory(
        weights=FP32 * (own + own_tables) + (0.0 if not alone or precision == "fp32" else (width + FP32) * own),
        optimizer=FP32 * (own_tables * 2 if rows_alone else 0.0) if training.optimizer.offload else FP32 * moments,
        gradients=gradients,
        accumulated=0.0 if micro_batches == 1 else gradients if alone else FP32 * whole,
        gathered=0.0 if alone else width * kept,
        in_flight=0.0 if alone else (width + FP32) * largest,
        activations=activations,
        logits=_logits(model, width),
        working=tokens * _working(model, spread, parallel, width, sequence_length, training.activation_checkpointing),
    )


def _gathered(outside: float, layers: float, experts: float, count: float, most: float) -> tuple[float, float]:
    """Return the weights that stay gathered, and those of the largest part that is gathered at once."""
    one_layer = layers / count
    largest = max(outside, one_layer + experts / count)
    if outside + layers + experts <= GATHERED_SHARE * most:
        return outside + layers + experts, largest
    if outside + layers <= GATHERED_SHARE * most:
        return outside + layers + 2 * experts / count, largest
    return outside + 2 * (layers + experts) / count, largest


def _micro_batches(training: TrainingConfig, spread: Spread) -> tuple[int, int]:
    """Return the rows of a micro-batch and the number of micro-batches."""
    rows = max(1, training.global_batch_sequences // spread.batch)
    micro_batch = min(rows, training.micro_batch_sequences or rows)
    return micro_batch, -(-rows // micro_batch)


def _activations(
    model: ModelConfig,
    training: TrainingConfig,
    spread: Spread,
    width: int,
    tokens: float,
    sequence_length: int,
    stage: float,
) -> float:
    """Count what forward passes keep, of the first stage with as many micro-batches as there are stages."""
    hidden, mode = model.hidden_size, training.activation_checkpointing
    norm = 2 * FP32 + width  # a number's fp32 value, its normed one, and the result
    layer = _layer(model, width, sequence_length, mode)
    in_flight = min(spread.stages, _micro_batches(training, spread)[1])
    layers = in_flight * stage * model.num_layers * layer
    head: float = (norm + 2 * FP32) * hidden + width * hidden
    if model.mtp_num_layers:
        one = _attention(model, width, sequence_length) + _feed_forward(model, width)
        one = one if mode == "none" else 3 * width * hidden
        head += model.mtp_num_layers * (one + 3 * norm * hidden + 2 * width * hidden)
    vocabulary = (
        width * hidden * model.vocabulary * (1 + model.mtp_num_layers)
    )  # the head's gradients, made with the loss
    return tokens * (layers + head) + vocabulary


def _layer(model: ModelConfig, width: int, sequence_length: int, mode: str) -> float:
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
    return mixture + inner + 2 * (_attention(model, width, sequence_length) + _feed_forward(model, width))


def _attention(model: ModelConfig, width: int, sequence_length: int) -> float:
    norm = 2 * FP32 + width
    heads, key = model.num_attention_heads, model.qk_nope_head_dim + model.qk_rope_head_dim
    projected = heads * (2 * key + model.qk_nope_head_dim + 3 * model.v_head_dim)
    kept = heads * sequence_length / 2 if sequence_length <= KEPT_LENGTH else 0
    return norm * (model.hidden_size + model.q_lora_rank + model.kv_lora_rank) + width * (projected + kept)


def _feed_forward(model: ModelConfig, width: int) -> float:
    return (2 * FP32 + width) * model.hidden_size + 4 * width * model.ffn_hidden_size


def _logits(model: ModelConfig, width: int) -> float:
    """Count the gradient of the head once more, as it is scaled; a chunk of logits is smaller or as large as the chunks allow."""
    return width * model.hidden_size * model.vocabulary


def _working(
    model: ModelConfig, spread: Spread, parallel: ParallelConfig, width: int, sequence_length: int, mode: str
) -> float:
    """Count the bytes of a token that a layer's backward pass makes at once, with what it computes again."""
    slots = expected_ffn_experts(model)
    chunks = 1 if spread.holders == 1 else parallel.chunks
    experts = slots / chunks * width * 3 * (model.hidden_size + model.expert_ffn_hidden_size)
    feed_forward: float = width * model.ffn_hidden_size
    if mode == "none":
        return max(experts, feed_forward)
    if mode == "full":
        return _layer(model, width, sequence_length, "none") + max(experts, feed_forward)
    inner = slots * 4 * width * model.expert_ffn_hidden_size
    feed_forward += _feed_forward(model, width) - width * model.hidden_size
    attention = _attention(model, width, sequence_length) - width * model.hidden_size
    return max(experts + inner, feed_forward, attention)
