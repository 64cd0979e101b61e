"""What the exchange of tokens with experts costs on the link between nodes."""

from __future__ import annotations

from dataclasses import dataclass

_NUMBER_BYTES, _SHARE_BYTES = 4, 4
"""Of the number and the weight of an expert that travel with a token in two levels."""


@dataclass(frozen=True)
class Exchange:
    """A layer's exchange between nodes of the same size, with experts spread evenly and chosen evenly."""

    slots: float
    """Routed experts of a token, zero-computation experts left out."""
    top_k: int
    """Experts of a token, all of them."""
    nodes: int
    """Nodes that hold one set of experts."""
    hidden: int
    """Width of a token."""
    element_bytes: int
    """Bytes of each of its numbers."""

    def crossings(self, two_level: bool) -> float:
        """Return how often a token crosses to another node on its way to experts.

        Flat it crosses for each slot that is elsewhere, R (N - 1)/N times; in two levels once for each other node that has
        one of its experts, (N - 1)(1 - (1 - 1/N)^R) times.
        """
        if two_level:
            return (self.nodes - 1) * (1 - (1 - 1 / self.nodes) ** self.slots)
        return self.slots * (self.nodes - 1) / self.nodes

    def link_bytes(self, two_level: bool) -> float:
        """Return the bytes for each token that a node sends to others in a forward and a backward pass of one layer.

        A row goes there and comes back in each pass. In two levels the numbers and weights of all its experts go along, and
        the weights' gradients come back.
        """
        row = 4 * self.hidden * self.element_bytes
        along = self.top_k * (_NUMBER_BYTES + 2 * _SHARE_BYTES) if two_level else 0
        return self.crossings(two_level) * (row + along)
