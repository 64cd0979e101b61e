"""What several parallel residual streams cost beyond their matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from longcat.costs import flops
from longcat.costs.flops import Flops, Scores


@dataclass(frozen=True)
class StreamMixing:
    """Residual streams that are mixed by a matrix of their own for each token (hyper-connections, arXiv 2409.19606)."""

    component: ClassVar[str] = "hyper_connections"

    connections: int
    """How often the streams are mixed: once for each attention and each feed-forward network."""
    streams: int
    hidden_size: int

    def flops(self, sequence_length: int, scores: Scores) -> Flops:
        """Return the FLOP of one token; they do not depend on the sequence."""
        return flops.product(self.connections * self.streams**2 * self.hidden_size)

    @property
    def width(self) -> float:
        """Return 0, as no queries meet keys here."""
        return 0.0
