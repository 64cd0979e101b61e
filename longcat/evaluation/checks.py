"""What the evaluation can refuse before any stage starts."""

from __future__ import annotations

from longcat.config import PipelineConfig
from longcat.evaluation.stage import suite_identities


def check_evaluation(config: PipelineConfig) -> None:
    """Refuse unknown suites and tasks, and tasks whose files are broken.

    Raises:
        ConfigError: a suite or a task is unknown.
        DataError: a task's file is broken.
    """
    suite_identities(config)
