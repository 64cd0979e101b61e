"""The flows, made from the table in `flows.dag`: one for all stages, and one for each stage with its needs."""

from __future__ import annotations

from typing import Any

from flows.chain import chain
from flows.dag import PIPELINE, STAGES, Stage
from tasks.orchestrator import BestEffortFlow


def make_flow(name: str, title: str, stages: tuple[Stage, ...] = STAGES) -> BestEffortFlow:
    """Make the flow that runs a stage with all its needs, or all stages.

    Args:
        name: a stage, or `PIPELINE`.
        title: what the flow makes.
        stages: the table.
    """

    def run(
        preset: str | None = None,
        config_file: str | None = None,
        overrides: list[str] | None = None,
        workspace: str | None = None,
        checkpoint: str | None = None,
    ) -> dict[str, Any]:
        return chain(name, stages, preset, config_file, overrides, workspace, checkpoint)

    run.__name__ = run.__qualname__ = name
    run.__doc__ = f"""{title}; what it needs is made or reused.

    Args:
        preset: name of a preset; `tiny` when neither this nor a file is given.
        config_file: a YAML file laid over the preset.
        overrides: `key=value` pairs laid over both.
        workspace: directory of artifacts; `LONGCAT_WORKSPACE` or ./workspace when none.
        checkpoint: take this one, a folder or a digest in the workspace, instead of training.

    Returns:
        The summary that is also written to `summary.json` in the workspace.
    """
    return BestEffortFlow(run, name=name, persist_result=False, validate_parameters=True)


FLOWS = {
    PIPELINE: make_flow(PIPELINE, "Text to token shards, a checkpoint, its MFU and its scores"),
    **{stage.name: make_flow(stage.name, stage.title) for stage in STAGES},
}
globals().update(FLOWS)  # a deployment names its flow as `flows/pipeline.py:NAME`
