"""Settings of training to time one after another, and which of the results are worth having."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from longcat.config import PipelineConfig
from longcat.errors import ConfigError

QUIET = {"profiled_steps": 0, "kernel_seconds": 0.0, "collective_bytes": []}
"""Only the speed of a point is asked for."""


@dataclass(frozen=True)
class Point:
    """One combination."""

    micro_batch_sequences: int
    sequence_length_tokens: int
    activation_checkpointing: str
    processes: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def points(config: PipelineConfig, sequence_length: int, processes: int) -> list[Point]:
    """All combinations that the configuration asks for; none without a list.

    Args:
        config: section `benchmark.sweep`.
        sequence_length: of the corpus.
        processes: that the run itself takes.

    Raises:
        ConfigError: a sequence length that the share of a process cannot be cut into, or a number below 1.
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
    found = [Point(*values) for values in itertools.product(*lists)]
    for point in found:
        if point.micro_batch_sequences < 0 or min(point.sequence_length_tokens, point.processes) < 1:
            raise ConfigError(f"benchmark.sweep: {point.as_dict()} has a number below 1")
        if training.global_batch_sequences % point.processes:
            raise ConfigError(
                f"benchmark.sweep.processes: {point.processes} do not divide training.global_batch_sequences={training.global_batch_sequences}"
            )
        share = training.global_batch_sequences // point.processes * sequence_length
        if share % point.sequence_length_tokens:
            raise ConfigError(
                f"benchmark.sweep.sequence_length_tokens: {point.sequence_length_tokens} does not divide the {share} "
                "tokens that a process has of a batch"
            )
    return found


def configured(config: PipelineConfig, point: Point) -> PipelineConfig:
    """The configuration of a point."""
    length = max(point.sequence_length_tokens, config.model.max_position_embeddings)
    training = {
        "micro_batch_sequences": point.micro_batch_sequences,
        "activation_checkpointing": point.activation_checkpointing,
        "processes": point.processes,
    }
    # as many processes as there are for the experts, or the largest share of them that fits
    if point.processes % (config.training.expert_parallel or 1):
        training["expert_parallel"] = 0
    return config.model_copy(
        update={
            "training": config.training.model_copy(update=training),
            "model": config.model.model_copy(update={"max_position_embeddings": length}),
            "benchmark": config.benchmark.model_copy(update=QUIET),
        }
    )


def pareto(rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which rows no other one beats: as fast and with less memory, or faster with no more; failed rows are none."""

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
    """Best speed for each number of processes, and its share of what the fewest would give in proportion.

    The batch of all processes together stays the same (strong scaling).
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
