"""Bytes that training keeps on one device, by closed formulas over the configuration. A lower bound: no activations.

States follow mixed precision as `longcat.parallel` does it (Rajbhandari et al., arXiv 1910.02054, section 3.1): weights
that are computed with, fp32 master weights, fp32 gradients, and the optimizer's moments, spread over the processes
(fully sharded data parallelism) but for what is gathered: n-gram tables, embedding and head whole in every process.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from longcat.config import ModelConfig, TrainingConfig
from longcat.costs.flops import parameters

_WIDTH = {"fp32": 4, "bf16": 2}
_GATHERED = ("ngram_tables", "embedding", "lm_head")
"""Components, see `longcat.costs.flops.parameters`, that every process gathers whole and keeps during a step."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one process."""

    weights: float
    """fp32 master weights, and copies in the type that is computed in."""
    gradients: float
    """fp32."""
    optimizer: float
    """Moments, fp32."""
    gathered: float
    """What is held whole beside its share, in the type that is computed in."""

    @property
    def states(self) -> float:
        """The sum of all of them."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """Return the bytes by what they hold."""
        return asdict(self)


def training_memory(
    model: ModelConfig, training: TrainingConfig, processes: int, precision: Literal["bf16", "fp32"]
) -> TrainingMemory:
    """Estimate the memory of one training process.

    Args:
        model: the model.
        training: gives the optimizer.
        processes: over which weights and states are spread, experts included.
        precision: that is computed in.
    """
    counts = parameters(model)
    share = sum(counts.values()) / processes
    copies = _WIDTH[precision] if precision != "fp32" else 0
    # Muon has one moment for the matrices of the layers; AdamW two for everything
    matrices = sum(count for name, count in counts.items() if name not in (*_GATHERED, "norms_and_biases"))
    moments = 2 * share if training.optimizer.name == "adamw" else 2 * share - matrices / processes
    gathered = 0.0
    if processes > 1:
        whole = sum(counts.get(name, 0) for name in _GATHERED)
        gathered = whole * _WIDTH[precision] * (1 - 1 / processes)
    return TrainingMemory(weights=share * (4 + copies), gradients=share * 4, optimizer=moments * 4, gathered=gathered)
