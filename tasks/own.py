"""Stages of the user's own: a plain function becomes a Prefect task, and its code a part of what its results are known by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefect.states import State

from longcat.artifact import Artifact, Workspace
from longcat.config import PipelineConfig
from longcat.tasks.stage import run_stage, stage_task
from longcat.tracking import Tracker


def run_own(
    name: str,
    function: Callable[..., Artifact[Any]],
    config: PipelineConfig,
    parents: Sequence[Artifact[Any]],
    workspace: Workspace,
    tracker: Tracker,
) -> State[Artifact[Any]]:
    """Run a stage that is a plain function as a task of its name, with its MLflow run, as the stages of longcat are run."""

    def own() -> State[Artifact[Any]]:
        return run_stage(
            name,
            tracker,
            lambda report, run: function(config, *parents, workspace=workspace, report=report),
            _nothing_more,
        )

    own.__name__ = own.__qualname__ = name
    own.__doc__ = function.__doc__
    task: Callable[[], State[Artifact[Any]]] = stage_task(own)
    return task()


def _nothing_more(_run: object, _artifact: object) -> None:
    """Publish nothing besides facts and manifest."""
