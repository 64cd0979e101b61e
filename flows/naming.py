"""How Prefect names a flow run, and where MLflow shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect import get_client

from longcat.best_effort import experiment_page, own_servers, pages_of_mlflow, run_page
from longcat.printable import markdown_text

_RANDOM = re.compile(r"[a-z]+-[a-z]+")
"""Names that Prefect gives by chance; others have been given by somebody."""


def describe(flow_run: UUID, name: str, tags: Sequence[str]) -> None:
    """Give a flow run its name, unless somebody has given it one, and add tags; calls Prefect."""
    client = get_client(sync_client=True)
    run = client.read_flow_run(flow_run)
    called = name if _RANDOM.fullmatch(run.name) else run.name
    client.update_flow_run(flow_run, name=called, tags=sorted({*run.tags, *tags}))


def mlflow_runs(experiment_id: str | None, runs: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the address of each run in MLflow's pages: the user's own server, or the one that `longcat ui` starts.

    Args:
        experiment_id: MLflow's, None if it has not been reached.
        runs: ids by stage, None for what MLflow has not been sent yet.
    """
    return {
        stage: None if run is None or experiment_id is None else run_page(pages_of_mlflow(), experiment_id, run)
        for stage, run in runs.items()
    }


def mlflow_page(
    note: str, summary: Mapping[str, Any], experiment_id: str | None, whole: str | None, workspace: str
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
        name = f"[{name}]({experiment_page(pages_of_mlflow(), experiment_id)})"
    lines = [
        f"MLflow's experiment {name}, {markdown_text(summary['tracking_uri'])}",
        "This flow run's records have not been sent to MLflow yet."
        if whole is None
        else f"[This flow run in MLflow]({whole})",
    ]
    if "MLflow" not in own_servers():
        lines.append(f"`longcat ui --workspace {markdown_text(workspace)}` serves the pages that the links lead to.")
    return "\n\n".join([*lines, note])
