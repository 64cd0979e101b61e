"""The stages of a pipeline: which layers each has, and which process computes it. Pure arithmetic, without torch."""

from __future__ import annotations

from typing import Literal, NamedTuple

Schedule = Literal["1f1b", "interleaved", "zbv"]
"""Order in which a pipeline computes the forward and backward passes of its micro-batches."""
STAGES_EACH: dict[Schedule, int] = {"1f1b": 1, "interleaved": 2, "zbv": 2}
"""Stages that each process holds."""


class Held(NamedTuple):
    """What a stage has of the model."""

    layers: int
    """Number of them."""
    first: bool
    """Whether it has the embeddings."""
    last: bool
    """Whether it has the head, and multi-token prediction with a copy of the word embedding."""


def stages_in_all(schedule: Schedule, processes: int) -> int:
    """Return the stages of a pipeline of that many processes; one process has all layers, whatever the schedule."""
    return processes * STAGES_EACH[schedule] if processes > 1 else 1


def stages_of(schedule: Schedule, place: int, processes: int) -> list[int]:
    """Return the stages of the process at a place along `pipeline`: every so many-th, or in a V down the processes and up again."""
    if schedule == "zbv":
        return [place, 2 * processes - 1 - place]
    return [place + turn * processes for turn in range(STAGES_EACH[schedule])]


def stage_owner(schedule: Schedule, stage: int, processes: int) -> int:
    """Return the place along `pipeline` of the process that holds a stage, see `stages_of`."""
    if schedule == "zbv" and stage >= processes:
        return 2 * processes - 1 - stage
    return stage % processes


def layers_of_stage(layers: int, number: int, stages: int) -> range:
    """Return the layers of a stage, 0 the first one: equally many as any other's, or one more.

    The first stages have one more where the layers do not divide: the last stage has the head and multi-token prediction.

    Raises:
        ValueError: there are more stages than layers.
    """
    if stages > layers:
        raise ValueError(f"{layers} layers do not make {stages} stages")
    each, more = divmod(layers, stages)
    start = number * each + min(number, more)
    return range(start, start + each + (number < more))


def held_by(schedule: Schedule, place: int, processes: int, layers: int) -> list[Held]:
    """Return what the stages of the process at a place along `pipeline` have of a model, in its order.

    Raises:
        ValueError: there are more stages than layers.
    """
    stages = stages_in_all(schedule, processes)
    return [
        Held(len(layers_of_stage(layers, number, stages)), number == 0, number == stages - 1)
        for number in (stages_of(schedule, place, processes) if processes > 1 else [0])
    ]
