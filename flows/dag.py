"""The table of stages: name, needs and code location of each, and those that others register. It imports none of the code."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from longcat import extensions
from longcat.errors import ConfigError
from longcat.extensions import Extension


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline."""

    name: str
    """Name of its flow, its command and its MLflow run."""
    title: str
    """What the flow produces, as a phrase for help texts."""
    function: str
    """`module:function` of its work: `function(config, *artifacts, workspace=..., report=...)` returns an `Artifact`."""
    needs: tuple[str, ...] = ()
    """Stages whose artifacts it takes, in the order of its arguments."""
    check: str | None = None
    """`module:function` that checks the configuration for this stage and raises a `UserError`."""
    task: str | None = None
    """`module:function` of a Prefect task that does the work and publishes more than facts and manifest. It is called with the
    configuration, the artifacts, the workspace and the tracker."""
    own: Extension | None = None
    """Whose it is, if it is none of longcat's; filled in where it is found."""


STAGES = (
    Stage(
        "preprocess",
        "Text to token shards",
        function="longcat.corpus.stage:preprocess",
        task="longcat.tasks.preprocess:preprocess",
        check="longcat.corpus.checks:check_corpus",
    ),
    Stage(
        "pretrain",
        "Token shards to a checkpoint",
        function="longcat.training.stage:pretrain",
        task="longcat.tasks.pretrain:pretrain",
        needs=("preprocess",),
        check="longcat.training.checks:check_training",
    ),
    Stage(
        "benchmark",
        "MFU of the trained model, compared with published A100 runs",
        function="longcat.benchmark.stage:benchmark",
        task="longcat.tasks.benchmark:benchmark",
        needs=("preprocess", "pretrain"),
        check="longcat.benchmark.checks:check_benchmark",
    ),
    Stage(
        "evaluate",
        "Scores of the trained model",
        function="longcat.flows.walk:evaluate",
        task="longcat.tasks.evaluate:evaluate",
        needs=("preprocess", "pretrain"),
        check="longcat.evaluation.checks:check_evaluation",
    ),
)
TRAINING = "pretrain"
"""Name of the stage that makes a checkpoint, which a user may name instead."""
PIPELINE = "pipeline"
"""Name of the flow that runs all stages."""


def find_stage(name: str) -> Stage:
    """Find a stage of the user's own, by its registered name or by `package.module:NAME`.

    Raises:
        ConfigError: there is none, it cannot be imported, or it is no stage.
    """
    extension = extensions.find(extensions.STAGES, name, "stage=")
    if extension is None:
        known = [PIPELINE, *(stage.name for stage in STAGES), *extensions.registered(extensions.STAGES)]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        raise ConfigError(
            f"there is no stage {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else "")
            + f"; there are {', '.join(known)}, or package.module:NAME of your own"
        )
    stage = extension.load("stage=", Stage)
    if ":" not in name and stage.name != name:
        raise ConfigError(f"stage={extension.described} has the name {stage.name!r}, its entry point has another")
    if stage.name == PIPELINE or any(stage.name == known.name for known in STAGES):
        raise ConfigError(f"stage={extension.described} has the name of a stage of longcat, {stage.name!r}")
    return replace(stage, own=extension)


def own_stages() -> list[Stage]:
    """Return the stages that others register, each behind those it needs; one that cannot be used is left out with a warning."""
    waiting: list[Stage] = []
    for name in extensions.registered(extensions.STAGES):
        try:
            waiting.append(find_stage(name))
        except ConfigError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
    found: list[Stage] = []
    while ready := [stage for stage in waiting if set(stage.needs) <= {known.name for known in (*STAGES, *found)}]:
        found += ready
        waiting = [stage for stage in waiting if stage not in ready]
    for stage in waiting:
        warnings.warn(
            f"left out: stage {stage.name} needs {', '.join(stage.needs)}, not all of which are there", stacklevel=2
        )
    return found


def table_for(flow: str) -> tuple[Stage, ...]:
    """Return the table of stages in which a flow is found: longcat's own, and those of others where they are asked for.

    Args:
        flow: `PIPELINE`, a stage, or `package.module:NAME` of a stage.

    Raises:
        ConfigError: there is no such stage, it cannot be used, or it needs one that is not there.
    """
    if any(stage.name == flow for stage in STAGES):
        return STAGES
    table = (*STAGES, *own_stages())
    if flow == PIPELINE or any(stage.name == flow for stage in table):
        return table
    stage = find_stage(flow)
    if missing := [need for need in stage.needs if all(need != known.name for known in table)]:
        raise ConfigError(f"stage={flow} needs {', '.join(missing)}; there are {', '.join(one.name for one in table)}")
    return (*(one for one in table if one.name != stage.name), stage)


def flow_name(flow: str, table: Iterable[Stage]) -> str:
    """Return the name of a flow that was given by the place of its stage."""
    return next((stage.name for stage in table if stage.own is not None and stage.own.name == flow), flow)


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
