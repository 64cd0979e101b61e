"""Execution of a flow: its stages in order, each given the artifacts it needs, and a summary at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact

from longcat.artifact import SUMMARY, Artifact, Workspace, write_json
from longcat.config import PipelineConfig
from longcat.errors import Cancelled
from longcat.flows.dag import Stage, load
from longcat.flows.naming import describe, mlflow_page, run_name, run_tags
from longcat.flows.walk import prepare, row_of, summary_of
from longcat.redaction import redact, redact_error, redacted_records
from longcat.tasks.orchestrator import flow_run_id, prefect_session, prefect_tags, tell
from longcat.tasks.own import run_own
from longcat.tracking import Tracker

_WHOLE = "all of it"
"""What the page of links calls MLflow's run of the whole flow run."""


def chain(
    name: str,
    table: Sequence[Stage],
    preset: str | None,
    config_file: str | None,
    overrides: list[str] | None,
    workspace: str | None,
    checkpoint: str | None = None,
    keep: dict[str, Artifact[Any]] | None = None,
) -> dict[str, Any]:
    """Run the stages of a flow and return the summary, which is also written to `summary.json` in the workspace.

    With a `checkpoint`, the stages take it in place of one that is trained, and the text is tokenised by its tokenizer.
    `keep` is filled with the artifacts by stage.

    Raises:
        ConfigError: the flow does not take a checkpoint, or there is no such one.
        LongcatError: from the first stage that failed; finished artifacts stay.
    """
    walk = prepare(name, table, preset, config_file, overrides, workspace, checkpoint)
    config, stages, space = walk.config, walk.stages, walk.workspace
    began = time.monotonic()
    with space.lease(), redacted_records(), prefect_session():
        if (flow_run := flow_run_id()) is not None:
            called = run_name(name, config.preset, config_file, overrides or ())
            tell(describe, flow_run, called, run_tags(name, config.preset, overrides or ()))
        tracker = Tracker(space, config, name=f"{name}-{config.preset}")
        tracker.set_tags(prefect_tags())
        rows = []
        status = "FAILED"

        def call(
            stage: Stage, settings: PipelineConfig, parents: Sequence[Artifact[Any]], room: Workspace
        ) -> Artifact[Any]:
            if stage.task is None:
                state = run_own(stage.name, load(stage.function), settings, parents, room, tracker)
            else:
                state = load(stage.task)(settings, *parents, room, tracker)
            made: Artifact[Any] = state.result()
            return made

        try:
            for stage, artifact, seconds in walk.go(call):
                rows.append(row_of(stage, artifact, seconds))
                figures = artifact.facts.figures.items()
                tracker.log_metrics({name: value for name, value in figures if value is not None})
            status = "FINISHED"
        except BaseException as error:
            redact_error(error)
            # Prefect's own signal for a cancelled run is no Exception either
            if isinstance(error, Cancelled) or not isinstance(error, Exception):
                status = "KILLED"
            raise
        finally:
            warning = tracker.close(status)
            where = {"tracking_uri": redact(tracker.uri), "experiment": tracker.experiment}
            ids = {_WHOLE: tracker.run_id(), **{stage.name: tracker.run_id(stage.name) for stage in stages}}
            page = mlflow_page({"workspace": str(space.path), "mlflow": where}, ids)
            tell(create_markdown_artifact, page, key="mlflow", description="MLflow's runs of this flow run")
        summary = {
            **summary_of(walk, rows, time.monotonic() - began),
            "stages": [{**row, "mlflow_run_id": tracker.run_id(row["stage"])} for row in rows],
            "mlflow": {**where, "run_id": ids[_WHOLE], "warning": warning},
        }
        write_json(space.path / SUMMARY, summary)
    if keep is not None:
        keep.update(walk.made)
    return summary
