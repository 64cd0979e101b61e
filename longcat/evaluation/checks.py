"""Checks of the evaluation's settings that run before any stage starts."""

from __future__ import annotations

from longcat.config import PipelineConfig
from longcat.evaluation.stage import suite_identities


def check_evaluation(config: PipelineConfig) -> None:
    """Refuse unknown suites and tasks, and tasks that could only fail.

    Raises:
        ConfigError: a suite or a task is unknown, or settings do not fit a task.
        DataError: a task's file is missing or broken.
    """
    suite_identities(config)
