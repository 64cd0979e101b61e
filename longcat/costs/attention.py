"""What the layers of attention cost beyond their matrices: the products whose size depends on the sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from longcat.costs import flops
from longcat.costs.flops import Flops, Scores


class Mixer(Protocol):
    """Layers of one shape that mix the tokens of a sequence."""

    component: ClassVar[str]
    """Name of these FLOP among a model's components."""

    @property
    def width(self) -> float:
        """Return their part of layers x heads x head dimension, as PaLM's formula has it."""

    def flops(self, sequence_length: int, scores: Scores) -> Flops:
        """Return the FLOP of one token in all these layers."""


@dataclass(frozen=True)
class Attention:
    """Softmax attention layers of one shape."""

    component: ClassVar[str] = "attention_scores"

    layers: int
    heads: int
    key_dim: int
    """Query and key dimensions per head."""
    value_dim: int
    """Value dimensions per head."""
    window: int | None = None
    """Maximum number of keys that a query reads; None for no limit."""

    def flops(self, sequence_length: int, scores: Scores) -> Flops:
        """Return the FLOP of one token in all these layers."""
        keys = flops.keys_read(sequence_length, scores, self.window)
        return flops.attention_scores(self.heads, self.key_dim, self.value_dim, keys).times(self.layers)

    @property
    def width(self) -> float:
        """Return layers x heads x (key + value dimensions) / 2: layers x hidden size for a plain model."""
        return self.layers * self.heads * (self.key_dim + self.value_dim) / 2
