"""The way through a flow: its stages in order, each given the artifacts it needs. It knows neither Prefect nor MLflow."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from longcat.artifact import Artifact, Facts, Recipe, Workspace
from longcat.config import PipelineConfig, load_config
from longcat.errors import ConfigError
from longcat.extensions import Extension
from longcat.flows.dag import TRAINING, Stage, check, load, stages_of
from longcat.inference.given import given_checkpoint, with_model_of
from longcat.progress import Progress, Reporter, no_progress, progress_listeners
from longcat.training.given_start import with_start
from longcat.training.given_state import state_as_checkpoint
from longcat.training.room import doubts

_LOG = logging.getLogger(__name__)
FactsT = TypeVar("FactsT", bound=Facts)
Call = Callable[[Stage, PipelineConfig, Sequence[Artifact[Any]], Workspace], Artifact[Any]]
"""Runs a stage: with the configuration, the artifacts that it needs, and where its own goes."""


def open_workspace(path: str | Path | None) -> Workspace:
    """Open the workspace named, or `LONGCAT_WORKSPACE`, or ./workspace."""
    return Workspace(path or os.environ.get("LONGCAT_WORKSPACE") or "workspace")


@dataclass
class Walk:
    """A flow that is about to run."""

    flow: str
    config: PipelineConfig
    stages: Sequence[Stage]
    workspace: Workspace
    given: Artifact[Any] | None = None
    """The checkpoint that takes the place of one that is trained."""
    made: dict[str, Artifact[Any]] = field(default_factory=dict)
    """Artifacts so far, by stage."""

    def go(self, call: Call) -> Iterator[tuple[Stage, Artifact[Any], float]]:
        """Run the stages; yields each with its artifact and the seconds it took."""
        if self.given is not None:
            self.made[TRAINING] = self.given
        for stage in self.stages:
            began = time.monotonic()
            parents = [self.made[needed] for needed in stage.needs]
            room = self.workspace if stage.own is None else _Signed(self.workspace, stage.own.identity | _code(stage))
            artifact = call(stage, self.config, parents, room)
            self.made[stage.name] = artifact
            yield stage, artifact, time.monotonic() - began


def prepare(
    flow: str,
    table: Sequence[Stage],
    preset: str | None,
    config_file: str | Path | None,
    overrides: Sequence[str] | None,
    workspace: str | Path | None,
    checkpoint: str | None = None,
) -> Walk:
    """Load the configuration of a flow, find what the user gives it, and check all stages before the first one starts.

    Raises:
        ConfigError: of a setting; or the flow does not take a checkpoint, or there is no such one.
    """
    config = load_config(preset, Path(config_file) if config_file else None, overrides or ())
    stages = stages_of(flow, table)
    space = open_workspace(workspace)
    given = None
    if checkpoint is not None:
        stages = without_training(flow, stages)
        given = given_checkpoint(state_as_checkpoint(checkpoint, space), space)
        config = with_model_of(config, given.path, space)
    else:
        config = with_start(config, space)
    check(config, stages)
    for stage in stages:
        if stage.own is not None:
            function_of(stage)
    if any(stage.name == TRAINING for stage in stages):
        for doubt in doubts(config, space.path):
            _LOG.warning(doubt)
    return Walk(flow, config, stages, space, given)


def function_of(stage: Stage) -> Callable[..., Artifact[Any]]:
    """Return the function of a stage; of one of the user's own, with word of what it does not do as a stage has to.

    Raises:
        ConfigError: the user's function cannot be imported.
    """
    if stage.own is None:
        plain: Callable[..., Artifact[Any]] = load(stage.function)
        return plain
    function: Any = replace(stage.own, name=stage.function, place=stage.function).load(f"stage {stage.name}: ", object)

    @wraps(function)
    def checked(*arguments: Any, **settings: Any) -> Artifact[Any]:
        try:
            made = function(*arguments, **settings)
        except SystemExit as left:
            raise ConfigError(f"stage {stage.name}: {stage.function} has left by SystemExit: {left}") from left
        if not isinstance(made, Artifact):
            raise ConfigError(
                f"stage {stage.name}: {stage.function} returned {made!r:.100}; expected what workspace.materialize returns"
            )
        return made

    return checked


def call_plainly(
    stage: Stage, config: PipelineConfig, parents: Sequence[Artifact[Any]], room: Workspace
) -> Artifact[Any]:
    """Run a stage as a plain function; the listeners of this process hear of its progress."""
    return function_of(stage)(config, *parents, workspace=room, report=_tell)


def _tell(progress: Progress) -> None:
    for listener in progress_listeners():
        listener(progress)


def evaluate(
    config: PipelineConfig,
    tokens: Artifact[Any],
    checkpoint: Artifact[Any],
    *,
    workspace: Workspace,
    report: Reporter = no_progress,
) -> Artifact[Any]:
    """Score a checkpoint and judge it by the gates, as the stage of the pipeline does.

    Raises:
        EvaluationError: a task has no scores.
        GateError: the scores do not meet the gates.
    """
    from longcat.evaluation import stage
    from longcat.evaluation.champion import decide, require
    from longcat.tracking import model_name

    result = stage.evaluate(config, tokens, checkpoint, workspace=workspace, report=report)
    stage.refuse_failures(result)
    require(decide(config, model_name(config), result, checkpoint, workspace), workspace, result)
    return result


def without_training(flow: str, stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages of a flow besides the one that makes a checkpoint.

    Raises:
        ConfigError: none of them takes a checkpoint, or the flow is there to train one.
    """
    if flow == TRAINING or not any(TRAINING in stage.needs for stage in stages):
        raise ConfigError(f"{flow} takes no --checkpoint")
    return [stage for stage in stages if stage.name != TRAINING]


def row_of(stage: Stage, artifact: Artifact[Any], seconds: float) -> dict[str, Any]:
    """Return a stage's row of the summary."""
    return {
        "stage": stage.name,
        "status": "cached" if artifact.cached else "run",
        "seconds": round(seconds, 2),
        "headline": artifact.facts.headline,
        "remarks": artifact.facts.remarks(artifact.path),
        "artifact": {"kind": artifact.kind, "digest": artifact.digest, "path": str(artifact.path)},
        "facts": artifact.facts.model_dump(mode="json"),
    }


def summary_of(walk: Walk, rows: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """Return the summary of a flow that has run, without what MLflow knows."""
    return {
        "flow": walk.flow,
        "preset": walk.config.preset,
        "workspace": str(walk.workspace.path),
        "status": "completed",
        "seconds": round(seconds, 2),
        "stages": list(rows),
    }


def _code(stage: Stage) -> dict[str, Any]:
    """Return the identity of a stage's function, which may be elsewhere than the stage."""
    return {"function": Extension(stage.function, stage.function).identity}


class _Signed(Workspace):
    """A workspace for a stage of the user's own: the code of the stage is part of the digests of what it makes."""

    def __init__(self, workspace: Workspace, code: Mapping[str, Any]) -> None:
        self.path, self.hashes, self._code = workspace.path, workspace.hashes, dict(code)

    def _signed(self, recipe: Recipe[FactsT]) -> Recipe[FactsT]:
        return replace(recipe, identity={**recipe.identity, "own_code": self._code})

    def find(self, recipe: Recipe[FactsT]) -> Artifact[FactsT] | None:
        """Find the artifact of a recipe and this code."""
        return super().find(self._signed(recipe))

    def partial(self, recipe: Recipe[Any]) -> Path:
        """Return where the artifact of a recipe and this code is made."""
        return super().partial(self._signed(recipe))

    def materialize(self, recipe: Recipe[FactsT], *arguments: Any, **settings: Any) -> Artifact[FactsT]:
        """Return the artifact of a recipe and this code, and build it first if it does not exist."""
        return super().materialize(self._signed(recipe), *arguments, **settings)
