"""Sweep over training settings: the points to time, their Pareto front and the scaling over processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from longcat.config import ParallelConfig, PipelineConfig
from longcat.errors import ConfigError

SPEED_ONLY = {"profiled_steps": 0, "kernel_seconds": 0.0, "collective_bytes": []}
"""Settings of the section `benchmark` for a point of the sweep: only its speed and memory are measured."""


@dataclass(frozen=True)
class Point:
    """One combination of settings in a sweep."""

    micro_batch_sequences: int
    sequence_length_tokens: int
    activation_checkpointing: str
    processes: int

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


def points(config: PipelineConfig, sequence_length: int, processes: int) -> list[Point]:
    """List all combinations of the configured sweep; empty if no setting is swept.

    Args:
        config: sections `benchmark.sweep` and `training`.
        sequence_length: tokens per sequence of the corpus.
        processes: training processes of the run itself.

    Raises:
        ConfigError: a number is below 1, or processes with rows of their own, or sequence length do not divide the batch.
    """
    sweep, training = config.benchmark.sweep, config.training
    lists = (
        sweep.micro_batch_sequences or [training.micro_batch_sequences],
        sweep.sequence_length_tokens or [sequence_length],
        sweep.activation_checkpointing or [training.activation_checkpointing],
        sweep.processes or [processes],
    )
    if not any(
        (sweep.micro_batch_sequences, sweep.sequence_length_tokens, sweep.activation_checkpointing, sweep.processes)
    ):
        return []
    combinations = [Point(*values) for values in itertools.product(*lists)]
    for point in combinations:
        for name, least in (("micro_batch_sequences", 0), ("sequence_length_tokens", 1), ("processes", 1)):
            if (number := getattr(point, name)) < least:
                raise ConfigError(f"benchmark.sweep.{name}: {number} is below {least}")
        readers = point.processes // math.prod(_sharing(config.parallel, point.processes).values())
        if training.global_batch_sequences % readers:
            raise ConfigError(
                f"benchmark.sweep.processes: {readers} do not divide training.global_batch_sequences={training.global_batch_sequences}"
            )
        local_tokens = training.global_batch_sequences // readers * sequence_length
        if local_tokens % point.sequence_length_tokens:
            raise ConfigError(
                f"benchmark.sweep.sequence_length_tokens: {point.sequence_length_tokens} does not divide the "
                f"{local_tokens} tokens of a batch per process"
            )
    return combinations


def _sharing(parallel: ParallelConfig, processes: int) -> dict[str, int]:
    """Return the degrees of the axes whose processes share rows: as configured, or 1 if these do not fit the processes."""
    degrees = {name: getattr(parallel, name) for name in ("pipeline", "context", "tensor")}
    return degrees if processes % math.prod(degrees.values()) == 0 else dict.fromkeys(degrees, 1)


def configured(config: PipelineConfig, point: Point) -> PipelineConfig:
    """Return the configuration for timing a point of the sweep."""
    length = max(point.sequence_length_tokens, config.model.max_position_embeddings)
    training = {
        "micro_batch_sequences": point.micro_batch_sequences,
        "activation_checkpointing": point.activation_checkpointing,
        "processes": point.processes,
    }
    # keep the degrees that divide the processes, and leave the others open
    replicate, shard, expert = config.parallel.replicate, config.parallel.shard, config.parallel.expert
    sharing = _sharing(config.parallel, point.processes)
    readers = point.processes // math.prod(sharing.values())
    layout = sharing | {
        "replicate": 1 if readers % replicate else replicate,
        "shard": shard if replicate * shard == readers else 0,
        "expert": 0 if point.processes // sharing["pipeline"] % (expert or 1) else expert,
    }
    return config.model_copy(
        update={
            "training": config.training.model_copy(update=training),
            "parallel": config.parallel.model_copy(update=layout),
            "model": config.model.model_copy(update={"max_position_embeddings": length}),
            "benchmark": config.benchmark.model_copy(update=SPEED_ONLY),
        }
    )


def in_rows_of(config: PipelineConfig, length: int) -> PipelineConfig:
    """Return the configuration whose layout divides the tokens of a batch in rows of this length, as a sweep cuts them."""
    rows = config.training.global_batch_sequences * config.corpus.sequence_length_tokens // length
    return config.model_copy(
        update={
            "corpus": config.corpus.model_copy(update={"sequence_length_tokens": length}),
            "training": config.training.model_copy(update={"global_batch_sequences": rows}),
        }
    )


def pareto(rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Mark the rows on the Pareto front of speed and memory; failed rows are not on it."""

    def beaten(row: Mapping[str, Any]) -> bool:
        speed, memory = row["tokens_per_second"], row["peak_memory_bytes"]
        return any(
            other["tokens_per_second"] >= speed
            and other["peak_memory_bytes"] <= memory
            and (other["tokens_per_second"], -other["peak_memory_bytes"]) != (speed, -memory)
            for other in rows
            if "error" not in other
        )

    return ["error" not in row and not beaten(row) for row in rows]


def scaling(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return the best speed for each number of processes and its efficiency relative to linear scaling.

    The reference is the fewest processes; the global batch stays the same (strong scaling).
    """
    best: dict[int, float] = {}
    for row in rows:
        if "error" not in row:
            best[row["processes"]] = max(best.get(row["processes"], 0.0), row["tokens_per_second"])
    if len(best) < 2:
        return []
    fewest = min(best)
    return [
        {
            "processes": count,
            "tokens_per_second": best[count],
            "efficiency": best[count] / count / (best[fewest] / fewest),
        }
        for count in sorted(best)
    ]
