"""Checks of the benchmark's settings that run before any stage starts."""

from __future__ import annotations

from longcat.accelerator import choose
from longcat.benchmark.sweep import configured, in_rows_of, points
from longcat.config import PipelineConfig
from longcat.errors import ConfigError
from longcat.training.layout import settle_layout


def check_benchmark(config: PipelineConfig) -> None:
    """Refuse a sweep with a setting that the batch, the devices or the experts cannot be laid out for.

    Raises:
        ConfigError: naming the setting.
    """
    accelerator = choose(config.accelerator)
    processes = settle_layout(config, accelerator).degrees.processes
    for point in points(config, config.corpus.sequence_length_tokens, processes):
        try:
            settle_layout(in_rows_of(configured(config, point), point.sequence_length_tokens), accelerator)
        except ConfigError as error:
            raise ConfigError(f"benchmark.sweep: {error}") from error
