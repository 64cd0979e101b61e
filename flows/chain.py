"""Execution of a flow: its stages in order, each given the artifacts it needs, and a summary at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from prefect.artifacts import create_markdown_artifact

from longcat.artifact import SUMMARY, Artifact, Workspace, write_json
from longcat.best_effort import reason
from longcat.config import PipelineConfig
from longcat.errors import Cancelled
from longcat.flows.dag import Stage, load
from longcat.flows.naming import describe, mlflow_page, mlflow_runs
from longcat.flows.walk import function_of, prepare, row_of, summary_of
from longcat.redaction import redact, redact_error, redacted_records
from longcat.tasks.orchestrator import flow_run_id, prefect_session, prefect_tags, tell
from longcat.tasks.own import run_own
from longcat.tasks.stage import results
from longcat.tracking import Tracker
from longcat.tracking.names import run_tags
from longcat.tracking.notes import flow_note

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
        tracker = Tracker(space, config, name, config_file, overrides or ())
        if (flow_run := flow_run_id()) is not None:
            tell(describe, flow_run, tracker.name_of(name), run_tags(name, config.preset, overrides or ()))
        tags = prefect_tags()
        tracker.run.set_tags(tags)
        rows: list[dict[str, Any]] = []
        status, why = "FAILED", None

        def call(
            stage: Stage, settings: PipelineConfig, parents: Sequence[Artifact[Any]], room: Workspace
        ) -> Artifact[Any]:
            if stage.task is None:
                state = run_own(stage.name, function_of(stage), settings, parents, room, tracker)
            else:
                state = load(stage.task)(settings, *parents, room, tracker)
            made: Artifact[Any] = state.result()
            return made

        try:
            for stage, artifact, seconds in walk.go(call):
                rows.append(row_of(stage, artifact, seconds))
                tracker.run.log_metrics(results(artifact.facts))
            status = "FINISHED"
        except BaseException as error:
            redact_error(error)
            why = reason(error)
            # Prefect's own signal for a cancelled run is no Exception either
            if isinstance(error, Cancelled) or not isinstance(error, Exception):
                status = "KILLED"
            raise
        finally:
            described = partial(flow_note, rows, str(space.path), command=tracker.command, error=why)
            tracker.run.set_note(described(prefect=tags.get("prefect.url")))
            warning = tracker.close(status)
            where = {"tracking_uri": redact(tracker.uri), "experiment": tracker.experiment}
            ids = {_WHOLE: tracker.run_id(), **{stage.name: tracker.run_id(stage.name) for stage in stages}}
            runs = mlflow_runs(tracker.experiment_id, ids, space.path)
            page = mlflow_page(described(runs=runs), where, tracker.experiment_id, runs[_WHOLE], space.path)
            tell(create_markdown_artifact, page, key="mlflow", description="what was made, and MLflow's runs of it")
        summary = {
            **summary_of(walk, rows, time.monotonic() - began),
            "stages": [{**row, "mlflow_run_id": tracker.run_id(row["stage"])} for row in rows],
            "mlflow": {**where, "run_id": ids[_WHOLE], "page": runs[_WHOLE], "warning": warning},
        }
        write_json(space.path / SUMMARY, summary)
    if keep is not None:
        keep.update(walk.made)
    return summary
