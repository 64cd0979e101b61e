"""A flow that runs in this process: what is checked before a server is started, and the flow under it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longcat.artifact import SUMMARY, Artifact, Workspace, write_json
from longcat.config import PipelineConfig, load_config
from longcat.disk import disk_errors
from longcat.flows.dag import Stage, check, flow_name, stages_of, table_for


@contextmanager
def ready(
    flow: str,
    preset: str | None,
    config: Path | None,
    overrides: Sequence[str] | None,
    workspace: Path,
    checkpoint: str | None = None,
) -> Iterator[tuple[PipelineConfig, list[Stage]]]:
    """Check what a flow is given, which takes no server, and hold the lease of its workspace.

    Yields:
        The configuration and the stages of the flow.

    Raises:
        UserError: of a setting, a stage or the workspace.
    """
    settings = load_config(preset, config, overrides or ())
    if not any(source.kind == "hub" for source in settings.corpus.sources):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    table = table_for(flow)
    stages = stages_of(flow_name(flow, table), table)
    space = None
    if checkpoint is None:
        if settings.training.init_from is not None:
            from longcat.training.given_start import with_start

            space = Workspace(workspace)
            settings = with_start(settings, space)
        check(settings, stages)
    space = space or Workspace(workspace)
    with disk_errors(workspace), space.lease():
        yield settings, stages


def run_here(
    flow: str,
    preset: str | None,
    config: Path | None,
    overrides: Sequence[str] | None,
    workspace: Path,
    checkpoint: str | None = None,
    keep: dict[str, Artifact[Any]] | None = None,
) -> dict[str, Any]:
    """Run a flow that is `ready`, with a Prefect server; returns its summary.

    Args:
        flow: `PIPELINE`, a stage, or `package.module:NAME` of a stage.
        preset: to start from.
        config: file that overrides it.
        overrides: that override both.
        workspace: folder for results.
        checkpoint: taken instead of one that is trained.
        keep: is filled with the artifacts by stage.
    """
    from longcat.flows.server import prefect_api

    with prefect_api(workspace):
        from longcat.flows.pipeline import flow_for

        summary: dict[str, Any] = flow_for(flow, keep)(
            preset=preset,
            config_file=None if config is None else str(config),
            overrides=list(overrides or ()),
            workspace=str(workspace),
            checkpoint=checkpoint,
        )
    return summary


def run_plainly(
    flow: str,
    preset: str | None,
    config: Path | None,
    overrides: Sequence[str] | None,
    workspace: Path,
    checkpoint: str | None = None,
    keep: dict[str, Artifact[Any]] | None = None,
) -> dict[str, Any]:
    """Run a flow that is `ready` without Prefect and MLflow, its stages as plain functions; as `run_here` otherwise."""
    from longcat.flows.walk import call_plainly, prepare, row_of, summary_of

    table = table_for(flow)
    walk = prepare(flow_name(flow, table), table, preset, config, overrides, workspace, checkpoint)
    began = time.monotonic()
    rows = [row_of(*step) for step in walk.go(call_plainly)]
    if keep is not None:
        keep.update(walk.made)
    summary = summary_of(walk, rows, time.monotonic() - began)
    write_json(walk.workspace.path / SUMMARY, summary)
    return summary
