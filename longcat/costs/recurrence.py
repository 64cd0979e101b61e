"""What layers with a recurrent state cost beyond their matrices: linear attention, the delta rule, state spaces.

The useful work is the recurrent form, whose cost per token does not depend on the sequence: products of the size of the
state, `key_dim x value_dim` per head.

* Linear attention, Mamba (arXiv 2312.00752) and Mamba-2 (arXiv 2405.21060): two. The outer product of key and value is
  added to the state, and the query reads it.
* The (gated) delta rule (arXiv 2412.06464; per channel in Kimi Linear, arXiv 2510.26692): three. The key reads what the
  state already holds for it, too.

Decay and gates are elementwise and do not count. The chunked algorithms that train such layers do more: products within a
chunk, which grow with its size. That is a choice of the kernel, as recomputation is, and no useful work.

Megatron-LM (megatron/training/training.py, 2026) counts four products of value_dim x value_dim for a gated delta net, 4/3 of
this where keys are as wide as values, and 7 FLOP for each channel and state of Mamba-2 forward, 7/4 of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from longcat.costs import flops
from longcat.costs.flops import Flops, Scores


@dataclass(frozen=True)
class Recurrence:
    """Layers with a recurrent state, of one shape."""

    component: ClassVar[str] = "recurrence"

    layers: int
    heads: int
    key_dim: int
    """Rows of a head's state: key dimensions, or the state size of Mamba."""
    value_dim: int
    """Columns of a head's state: value or head dimensions."""
    products: int
    """Products of the size of the state: 2, or 3 for the delta rule."""

    def flops(self, sequence_length: int, scores: Scores) -> Flops:
        """Return the FLOP of one token in all these layers, whatever the sequence length."""
        return flops.activation_product(self.layers * self.heads * self.products * self.key_dim * self.value_dim)

    @property
    def width(self) -> float:
        """Return 0: PaLM's formula counts the scores of softmax attention."""
        return 0.0
