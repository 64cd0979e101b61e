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


@dataclass(frozen=True)
class ChunkedAttention(Attention):
    """Softmax attention layers in which a query reads only the keys of its own chunk of `window` tokens."""

    def flops(self, sequence_length: int, scores: Scores) -> Flops:
        """Return the FLOP of one token in all these layers."""
        chunk = sequence_length if self.window is None else min(self.window, sequence_length)
        whole, rest = divmod(sequence_length, chunk)
        keys = float(chunk) if scores == "full" else (whole * chunk**2 + rest**2) / (2 * sequence_length)
        return flops.attention_scores(self.heads, self.key_dim, self.value_dim, keys).times(self.layers)


@dataclass(frozen=True)
class CompressedAttention(Attention):
    """Softmax attention over entries that each stand for `rate` tokens; `window` is the most of them a query reads."""

    rate: int = 1

    def flops(self, sequence_length: int, scores: Scores) -> Flops:
        """Return the FLOP of one token in all these layers."""
        entries = sequence_length // self.rate
        keys = flops.keys_read(entries, scores, self.window) if entries else 0.0
        return flops.attention_scores(self.heads, self.key_dim, self.value_dim, keys).times(self.layers)


@dataclass(frozen=True)
class Index:
    """Scores that choose the keys of a sparse attention; the choice passes no gradient, so they are counted forward."""

    component: ClassVar[str] = "index_scores"

    layers: int
    heads: int
    dim: int
    """Query and key dimensions per head; one more for each head that a product with learned weights sums up."""
    rate: int = 1
    """Tokens that one scored entry stands for."""

    def flops(self, sequence_length: int, scores: Scores) -> Flops:
        """Return the FLOP of one token in all these layers."""
        entries = sequence_length // self.rate
        keys = flops.keys_read(entries, scores) if entries else 0.0
        return Flops(2.0 * self.layers * self.heads * self.dim * keys, 0.0)

    @property
    def width(self) -> float:
        """Return 0, as PaLM's formula counts queries, keys and values only."""
        return 0.0
