"""Execution of a flow: its stages in order, each given the artifacts it needs, and a summary at the end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact

from longcat.artifact import SUMMARY, Artifact, Workspace, write_json
from longcat.config import load_config
from longcat.errors import Cancelled, ConfigError
from longcat.flows.dag import TRAINING, Stage, check, load, stages_of
from longcat.flows.naming import describe, mlflow_page, run_name, run_tags
from longcat.inference.given import given_checkpoint, same_tokenizer, with_model_of, with_tokenizer_of
from longcat.redaction import redact, redact_error, redacted_records
from longcat.tasks.orchestrator import flow_run_id, prefect_session, prefect_tags, tell
from longcat.tracking import Tracker
from longcat.training.given_start import with_start
from longcat.training.given_state import state_as_checkpoint
from longcat.training.room import doubts

_WHOLE = "all of it"
"""What the page of links calls MLflow's run of the whole flow run."""


def open_workspace(path: str | None) -> Workspace:
    """Open the workspace named, or `LONGCAT_WORKSPACE`, or ./workspace."""
    return Workspace(path or os.environ.get("LONGCAT_WORKSPACE") or "workspace")


def chain(
    name: str,
    table: Sequence[Stage],
    preset: str | None,
    config_file: str | None,
    overrides: list[str] | None,
    workspace: str | None,
    checkpoint: str | None = None,
) -> dict[str, Any]:
    """Run the stages of a flow and return the summary, which is also written to `summary.json` in the workspace.

    With a `checkpoint`, the stages take it in place of one that is trained, and the text is tokenised by its tokenizer.

    Raises:
        ConfigError: the flow does not take a checkpoint, or there is no such one.
        LongcatError: from the first stage that failed; finished artifacts stay.
    """
    config = load_config(preset, Path(config_file) if config_file else None, overrides or ())
    stages = stages_of(name, table)
    space = open_workspace(workspace)
    given = None
    if checkpoint is not None:
        stages = without_training(name, stages)
        given = given_checkpoint(state_as_checkpoint(checkpoint, space), space)
        config = with_model_of(config, given.path)
    else:
        config = with_start(config, space)
    check(config, stages)
    if any(stage.name == TRAINING for stage in stages):
        for doubt in doubts(config, space.path):
            logging.getLogger(__name__).warning(doubt)
    began = time.monotonic()
    with space.lease(), redacted_records(), prefect_session():
        if (flow_run := flow_run_id()) is not None:
            called = run_name(name, config.preset, config_file, overrides or ())
            tell(describe, flow_run, called, run_tags(name, config.preset, overrides or ()))
        tracker = Tracker(space, config, name=f"{name}-{config.preset}")
        tracker.set_tags(prefect_tags())
        made: dict[str, Artifact[Any]] = {} if given is None else {TRAINING: given}
        rows = []
        status = "FAILED"
        try:
            for stage in stages:
                started = time.monotonic()
                parents = [made[needed] for needed in stage.needs]
                artifact: Artifact[Any] = load(stage.task)(config, *parents, space, tracker).result()
                if given is not None and not stage.needs and not same_tokenizer(artifact.path, given.path):
                    config = with_tokenizer_of(config, given.path)
                    artifact = load(stage.task)(config, *parents, space, tracker).result()
                made[stage.name] = artifact
                rows.append(_row(stage, artifact, time.monotonic() - started))
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
            "flow": name,
            "preset": config.preset,
            "workspace": str(space.path),
            "status": "completed",
            "seconds": round(time.monotonic() - began, 2),
            "stages": [{**row, "mlflow_run_id": tracker.run_id(row["stage"])} for row in rows],
            "mlflow": {**where, "run_id": ids[_WHOLE], "warning": warning},
        }
        write_json(space.path / SUMMARY, summary)
    return summary


def without_training(flow: str, stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages of a flow besides the one that makes a checkpoint.

    Raises:
        ConfigError: none of them takes a checkpoint, or the flow is there to train one.
    """
    if flow == TRAINING or not any(TRAINING in stage.needs for stage in stages):
        raise ConfigError(f"{flow} takes no --checkpoint")
    return [stage for stage in stages if stage.name != TRAINING]


def _row(stage: Stage, artifact: Artifact[Any], seconds: float) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "status": "cached" if artifact.cached else "run",
        "seconds": round(seconds, 2),
        "headline": artifact.facts.headline,
        "remarks": artifact.facts.remarks(artifact.path),
        "artifact": {"kind": artifact.kind, "digest": artifact.digest, "path": str(artifact.path)},
        "facts": artifact.facts.model_dump(mode="json"),
    }
