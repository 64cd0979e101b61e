"""The matrix products of a model by their shapes: what a device is more or less efficient at, and what is kept of them.

Where a family is described by its weights alone, `complete` adds what is missing as products of the hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Divided = Literal["outputs", "inputs", "whole"]
"""How processes that share heads divide a matrix: by its outputs, its inputs, or not at all."""


@dataclass(frozen=True)
class Product:
    """A matrix that tokens are multiplied by, in each of some layers."""

    component: str
    """Name among a model's components."""
    layers: float
    """Layers that have it; a fraction where it stands for a part of one."""
    inputs: int
    outputs: int
    divided: Divided = "whole"
    kept: bool = False
    """Whether the backward pass needs its results, as of queries and gates; those that are added to the residual it does not."""
    chosen: float = 1.0
    """Matrices of this shape that a token is multiplied by in a layer: routed experts, on average."""
    copies: int = 1
    """Matrices of this shape in a layer."""

    @property
    def routed(self) -> bool:
        """Whether tokens are sent to it, as one of several."""
        return self.copies > 1

    @property
    def weights(self) -> float:
        """Weights that a token is multiplied by, in all layers."""
        return self.layers * self.chosen * self.inputs * self.outputs

    @property
    def parameters(self) -> float:
        """Weights in all layers."""
        return self.layers * self.copies * self.inputs * self.outputs


def complete(
    known: Iterable[Product], weights: Mapping[str, float], hidden: int, layers: int, copies: int = 1
) -> tuple[Product, ...]:
    """Add products for the weights of components that the known ones do not account for.

    Args:
        known: products with shapes.
        weights: of each component, that a token is multiplied by.
        hidden: width of the residual stream, which those without a shape begin with.
        layers: of the model.
        copies: routed experts of a layer, of a component that has no shape.
    """
    found = list(known)
    for component, size in weights.items():
        missing = size - sum(one.weights for one in found if one.component == component)
        if missing > 0.001 * size and hidden and layers:
            once = component in ("lm_head", "ngram_projection", "weights")
            count = 1 if once else layers
            outputs = max(1, round(missing / (count * hidden)))
            share = missing / (outputs * hidden)
            routed = component == "routed_experts"
            found.append(
                Product(component, share, hidden, outputs, "outputs", kept=not once, copies=copies if routed else 1)
            )
    return tuple(found)
