"""What a flow run is called, what it is found by, and where MLflow shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_client

from longcat.best_effort import own_servers, ui_address
from longcat.printable import markdown_text, printable
from longcat.redaction import redact

MOST = 100
"""Characters of a name or a tag."""
_RANDOM = re.compile(r"[a-z]+-[a-z]+")
"""Names that Prefect gives by chance; others have been given by somebody."""


def run_name(flow: str, preset: str, config_file: str | None, overrides: Sequence[str]) -> str:
    """Return a name that tells runs apart: flow, preset, file, and each override by the last part of its key."""
    file = [] if config_file is None else [Path(config_file).stem]
    short = [f"{key.rpartition('.')[2]}={value}" for key, _, value in (one.partition("=") for one in overrides)]
    return _shown("-".join([flow, preset, *file, *short]))


def run_tags(flow: str, preset: str, overrides: Sequence[str]) -> list[str]:
    """Return the tags that runs are found by: flow, preset, and each override in full."""
    return [flow, preset, *(_shown(one) for one in overrides)]


def describe(flow_run: UUID, name: str, tags: Sequence[str]) -> None:
    """Give a flow run its name, unless somebody has given it one, and add tags; calls Prefect."""
    client = get_client(sync_client=True)
    run = client.read_flow_run(flow_run)
    called = name if _RANDOM.fullmatch(run.name) else run.name
    client.update_flow_run(flow_run, name=called, tags=sorted({*run.tags, *tags}))


def mlflow_page(summary: Mapping[str, Any], runs: Mapping[str, str | None]) -> str:
    """Return Markdown that says where MLflow shows the runs of a flow run.

    Args:
        summary: `workspace`, and `mlflow` with `tracking_uri` and `experiment`.
        runs: ids by stage, None for what MLflow has not been sent yet.
    """
    own = own_servers().get("MLflow")
    pages = own or ui_address("MLflow")
    lines = [
        f"Experiment {markdown_text(summary['mlflow']['experiment'])}, {markdown_text(summary['mlflow']['tracking_uri'])}"
    ]
    if own is None:
        lines.append(
            f"`longcat ui --workspace {markdown_text(summary['workspace'])}` serves the pages that the links lead to."
        )
    rows = [
        f"| {stage} | {'not sent yet' if run is None else f'[{run}]({pages}/#/runs/{run})'} |"
        for stage, run in runs.items()
    ]
    return "\n\n".join([*lines, "\n".join(["| stage | MLflow run |", "| --- | --- |", *rows])]) + "\n"


def _shown(text: str) -> str:
    line = printable(redact(" ".join(text.split())))
    return line if len(line) <= MOST else line[: MOST - 1] + "…"
