"""A part of a model: consecutive layers, as a stage of a pipeline holds them, under the names that the whole model gives them."""

from __future__ import annotations

from dataclasses import dataclass

from longcat.config import ModelConfig
from longcat.costs.stages import layers_of_stage


@dataclass(frozen=True)
class Part:
    """Which layers a part has, and whether it is the model's first and last one."""

    layers: range
    """Numbers of its layers in the whole model."""
    first: bool = True
    """Whether it has the embeddings."""
    last: bool = True
    """Whether it has the final norm, the head and multi-token prediction; for that, a copy of the word embedding too."""

    @classmethod
    def whole(cls, config: ModelConfig) -> Part:
        """Return all of a model as one part."""
        return cls(range(config.num_layers))

    @classmethod
    def stage(cls, config: ModelConfig, number: int, stages: int) -> Part:
        """Return a stage of a pipeline, 0 the first one, with the layers of `layers_of_stage`.

        Raises:
            ValueError: there are more stages than layers.
        """
        return cls(layers_of_stage(config.num_layers, number, stages), number == 0, number == stages - 1)
