"""Checks of the evaluation's settings that run before any stage starts."""

from __future__ import annotations

from longcat.config import PipelineConfig
from longcat.evaluation.gates import check_gates
from longcat.evaluation.stage import suite_identities
from longcat.evaluation.suites import find_suite


def check_evaluation(config: PipelineConfig) -> None:
    """Refuse unknown suites and tasks, tasks that could only fail, and gates on scores that no suite gives.

    Raises:
        ConfigError: a suite, a task or a gate's score is unknown, or settings do not fit a task.
        DataError: a task's file is missing or broken.
    """
    suite_identities(config)
    if config.evaluation.gates:
        check_gates(config.evaluation.gates, [find_suite(name).scores(config) for name in config.evaluation.suites])
