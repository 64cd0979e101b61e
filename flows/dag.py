"""The table of stages: name, needs and code location of each. It imports none of the code."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline."""

    name: str
    """Name of its flow, its command and its MLflow run."""
    title: str
    """What the flow produces, as a phrase for help texts."""
    task: str
    """`module:function` of its Prefect task, called with the configuration, the artifacts of `needs`, the workspace and
    the tracker."""
    needs: tuple[str, ...] = ()
    """Stages whose artifacts it takes, in the order of its arguments."""
    check: str | None = None
    """`module:function` that checks the configuration for this stage and raises a `UserError`."""


STAGES = (
    Stage(
        "preprocess",
        "Text to token shards",
        task="longcat.tasks.preprocess:preprocess",
        check="longcat.corpus.checks:check_corpus",
    ),
    Stage(
        "pretrain",
        "Token shards to a checkpoint",
        task="longcat.tasks.pretrain:pretrain",
        needs=("preprocess",),
        check="longcat.training.checks:check_training",
    ),
    Stage(
        "benchmark",
        "MFU of the trained model, compared with published A100 runs",
        task="longcat.tasks.benchmark:benchmark",
        needs=("preprocess", "pretrain"),
        check="longcat.benchmark.checks:check_benchmark",
    ),
    Stage(
        "evaluate",
        "Scores of the trained model",
        task="longcat.tasks.evaluate:evaluate",
        needs=("preprocess", "pretrain"),
        check="longcat.evaluation.checks:check_evaluation",
    ),
)
TRAINING = "pretrain"
"""Name of the stage that makes a checkpoint, which a user may name instead."""
PIPELINE = "pipeline"
"""Name of the flow that runs all stages."""


def stages_of(flow: str, stages: Iterable[Stage] = STAGES) -> list[Stage]:
    """Return the stages that a flow runs, in order: one stage with all its needs, or every stage.

    Raises:
        KeyError: the flow is unknown.
    """
    table = {stage.name: stage for stage in stages}
    if flow == PIPELINE:
        return list(table.values())
    wanted = {flow}
    for stage in reversed(table.values()):
        if stage.name in wanted:
            wanted.update(stage.needs)
    if flow not in table:
        raise KeyError(flow)
    return [stage for stage in table.values() if stage.name in wanted]


def load(place: str) -> Any:
    """Import the object that `module:name` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def check(config: Any, stages: Iterable[Stage]) -> None:
    """Run the checks of stages, before the first of them starts.

    Args:
        config: the whole configuration, a `PipelineConfig`.
        stages: stages of one flow.

    Raises:
        UserError: naming the setting and what would be right.
    """
    for stage in stages:
        if stage.check is not None:
            load(stage.check)(config)
