"""A part of a model: consecutive layers, as a stage of a pipeline holds them, under the names that the whole model gives them."""

from __future__ import annotations

from dataclasses import dataclass

from longcat.config import ModelConfig


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
        """Return a stage of a pipeline, 0 the first one, with equally many layers as any other, or one more.

        The first stages have one more where the layers do not divide: the last stage has the head and multi-token prediction.

        Raises:
            ValueError: there are more stages than layers.
        """
        if stages > config.num_layers:
            raise ValueError(f"{config.num_layers} layers do not make {stages} stages")
        each, more = divmod(config.num_layers, stages)
        start = number * each + min(number, more)
        return cls(range(start, start + each + (number < more)), number == 0, number == stages - 1)
