"""The flows, made from the table in `longcat.flows.dag`: one for all stages, and one for each stage with its needs."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, get_type_hints

from pydantic import Field

from longcat.artifact import Artifact
from longcat.config import preset_names
from longcat.flows.chain import chain
from longcat.flows.dag import PIPELINE, STAGES, Stage, flow_name, own_stages, table_for
from longcat.flows.naming import first_name
from longcat.tasks.orchestrator import BestEffortFlow

PresetName = Annotated[str, Field(json_schema_extra={"enum": list(preset_names())})]
"""A preset; Prefect's form offers those there are."""


def make_flow(
    name: str, title: str, stages: tuple[Stage, ...] = STAGES, keep: dict[str, Artifact[Any]] | None = None
) -> BestEffortFlow:
    """Make the flow that runs a stage with all its needs, or all stages.

    Args:
        name: a stage, or `PIPELINE`.
        title: what the flow makes.
        stages: the table.
        keep: is filled with the artifacts of each run, by stage.
    """

    def run(
        preset: PresetName | None = None,
        config_file: str | None = None,
        overrides: list[str] | None = None,
        workspace: str | None = None,
        checkpoint: str | None = None,
    ) -> dict[str, Any]:
        return chain(name, stages, preset, config_file, overrides, workspace, checkpoint, keep)

    run.__annotations__ = get_type_hints(run, include_extras=True)  # Prefect reads them where their names mean nothing
    run.__name__ = run.__qualname__ = name
    run.__doc__ = f"""{title}; what it needs is made or reused.

    Args:
        preset: Preset to start from; tiny when neither this nor a file is given.
        config_file: YAML file of settings that override the preset, as the worker sees it.
        overrides: Settings that override both, each as a.b=c, for example training.steps=500.
        workspace: Folder for results; LONGCAT_WORKSPACE or ./workspace when none.
        checkpoint: Folder, or digest in the workspace, of a checkpoint to take instead of training one.

    Returns:
        The summary that is also written to `summary.json` in the workspace.
    """
    return BestEffortFlow(
        run, name=name, flow_run_name=partial(first_name, name), persist_result=False, validate_parameters=True
    )


ALL_STAGES = "Text to token shards, a checkpoint, its MFU and its scores"
"""What the whole pipeline makes."""


def flow_for(name: str, keep: dict[str, Artifact[Any]] | None = None) -> BestEffortFlow:
    """Make the flow of a stage or of all, with the stages that others register.

    Args:
        name: `PIPELINE`, a stage, or `package.module:NAME` of a stage.
        keep: is filled with the artifacts of each run, by stage.

    Raises:
        ConfigError: there is no such stage, or it cannot be used.
    """
    table = table_for(name)
    called = flow_name(name, table)
    title = next((stage.title for stage in table if stage.name == called), ALL_STAGES)
    return make_flow(called, title, table, keep)


_TABLE = (*STAGES, *own_stages())
FLOWS = {
    PIPELINE: make_flow(PIPELINE, ALL_STAGES, _TABLE),
    **{stage.name: make_flow(stage.name, stage.title, _TABLE) for stage in _TABLE},
}
globals().update(FLOWS)  # a deployment names its flow as `flows/pipeline.py:NAME`
