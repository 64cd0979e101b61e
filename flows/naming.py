"""How Prefect names a flow run, and where MLflow shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.context import FlowRunContext

from longcat.best_effort import own_servers
from longcat.config import load_config
from longcat.errors import UserError
from longcat.printable import markdown_text
from longcat.tracking.names import run_name
from longcat.ui_pages import experiment_page, pages_of_mlflow, run_page

_RANDOM = re.compile(r"[a-z]+-[a-z]+")
"""Names that Prefect gives by chance; others have been given by somebody."""


def first_name(flow: str) -> str:
    """Return what Prefect calls a flow run from its first line on: what `describe` does; called by Prefect within the run."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return flow
    if not _RANDOM.fullmatch(context.flow_run.name):
        return str(context.flow_run.name)
    given = context.parameters or {}
    file, overrides = given.get("config_file"), given.get("overrides") or ()
    try:
        preset = load_config(given.get("preset"), None if file is None else Path(file), overrides).preset
    except UserError:  # the run says it
        return flow
    return run_name(flow, preset, file, overrides)


def describe(flow_run: UUID, name: str, tags: Sequence[str]) -> None:
    """Give a flow run its name, unless somebody has given it one, and add tags; calls Prefect."""
    client = get_client(sync_client=True)
    run = client.read_flow_run(flow_run)
    called = name if _RANDOM.fullmatch(run.name) else run.name
    client.update_flow_run(flow_run, name=called, tags=sorted({*run.tags, *tags}))


def mlflow_runs(experiment_id: str | None, runs: Mapping[str, str | None], workspace: Path) -> dict[str, str | None]:
    """Return the address of each run in MLflow's pages: the user's own server, or the one that `longcat ui` starts.

    Args:
        experiment_id: MLflow's, None if it has not been reached.
        runs: ids by stage, None for what MLflow has not been sent yet.
        workspace: folder of the results.
    """
    if experiment_id is None:
        return dict.fromkeys(runs)
    pages = pages_of_mlflow(workspace)
    return {stage: None if run is None else run_page(pages, experiment_id, run) for stage, run in runs.items()}


def mlflow_page(
    note: str, summary: Mapping[str, Any], experiment_id: str | None, whole: str | None, workspace: Path
) -> str:
    """Return Markdown that says where MLflow shows a flow run.

    Args:
        note: what is said of the flow run in MLflow, too.
        summary: `tracking_uri` and `experiment`.
        experiment_id: MLflow's, None if it has not been reached.
        whole: address of the run of the whole flow run, None if it has not been sent yet.
        workspace: folder of the results.
    """
    name = markdown_text(summary["experiment"])
    if experiment_id is not None:
        name = f"[{name}]({experiment_page(pages_of_mlflow(workspace), experiment_id)})"
    lines = [
        f"MLflow's experiment {name}, {markdown_text(summary['tracking_uri'])}",
        "This flow run's records have not been sent to MLflow yet."
        if whole is None
        else f"[This flow run in MLflow]({whole})",
    ]
    if "MLflow" not in own_servers():
        lines.append(
            f"`longcat ui --workspace {markdown_text(str(workspace))}` serves the pages that the links lead to."
        )
    return "\n\n".join([*lines, note])
