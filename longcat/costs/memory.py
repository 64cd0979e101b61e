"""Memory of training states on one device, by closed formulas over the configuration: a lower bound, no activations.

The states are those of mixed precision in `longcat.parallel` (Rajbhandari et al., arXiv 1910.02054, section 3.1):
weights in the compute precision, fp32 master weights, fp32 gradients and the optimizer's moments, all sharded over the
processes (fully sharded data parallelism). Embedding and head are gathered whole in every process, and so are n-gram tables
unless their rows are spread (`parallel.embedding`): then rows are read and converted as they are needed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from longcat.config import ModelConfig, ParallelConfig, TrainingConfig
from longcat.costs.flops import parameters

_WIDTH = {"fp32": 4, "bf16": 2}
_GATHERED = ("ngram_tables", "embedding", "lm_head")
"""Components (`longcat.costs.flops.parameters`) that every process gathers whole and keeps during a step, unless spread."""


@dataclass(frozen=True)
class TrainingMemory:
    """Training states of one process, in bytes."""

    weights: float
    """fp32 master weights, and their copies in the compute precision."""
    gradients: float
    """fp32 gradients, without those of rows that have gradients of their own, which depend on the batch."""
    optimizer: float
    """fp32 moments of the optimizer, and a number for each row that is moved late."""
    gathered: float
    """Parts of gathered components that belong to other processes, in the compute precision."""

    @property
    def states(self) -> float:
        """Return the sum over all parts."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """Return the bytes by use."""
        return asdict(self)


def training_memory(
    model: ModelConfig,
    training: TrainingConfig,
    processes: int,
    precision: Literal["bf16", "fp32"],
    parallel: ParallelConfig | None = None,
) -> TrainingMemory:
    """Estimate the memory of the training states of one process.

    Args:
        model: the model.
        training: training settings; the optimizer matters.
        processes: processes over which weights and states are sharded, experts included.
        precision: compute precision.
        parallel: settings of the layout; n-gram tables matter.
    """
    counts = parameters(model)
    local = sum(counts.values()) / processes
    copies = _WIDTH[precision] if precision != "fp32" else 0
    # Muon has one moment for the matrices of the layers; AdamW two for everything
    matrices = sum(count for name, count in counts.items() if name not in (*_GATHERED, "norms_and_biases"))
    moments = 2 * local if training.optimizer.name == "adamw" else 2 * local - matrices / processes
    rows_alone = training.optimizer.lazy_ngram_moments
    spreads = parallel is not None and parallel.spreads_tables(processes, rows_alone)
    spread = counts.get("ngram_tables", 0) if spreads else 0
    lazy = spread if rows_alone else 0
    last_steps = 0.0 if model.ngram is None or not lazy else sum(model.ngram.rows(model.vocabulary)) / processes
    gathered = 0.0
    if processes > 1:
        whole = sum(counts.get(name, 0) for name in _GATHERED) - spread
        gathered = whole * _WIDTH[precision] * (1 - 1 / processes)
    return TrainingMemory(
        weights=local * 4 + (local - spread / processes) * copies,
        gradients=(local - lazy / processes) * 4,
        optimizer=(moments + last_steps) * 4,
        gathered=gathered,
    )
