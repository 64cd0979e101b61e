"""What the benchmark can refuse before any stage starts."""

from __future__ import annotations

from longcat.accelerator import choose
from longcat.benchmark.sweep import configured, points
from longcat.config import PipelineConfig
from longcat.training.layout import settle_layout


def check_benchmark(config: PipelineConfig) -> None:
    """Refuse a sweep with a setting that the batch, the devices or the experts cannot be laid out for.

    Raises:
        ConfigError: naming the setting.
    """
    accelerator = choose(config.accelerator)
    processes = settle_layout(config, accelerator).degrees.processes
    for point in points(config, config.corpus.sequence_length_tokens, processes):
        settle_layout(configured(config, point), accelerator)
