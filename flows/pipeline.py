"""Flow: Corpus to tokens to checkpoint to MFU and scores."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.chain import chain


@flow(name="pipeline", persist_result=False, validate_parameters=True)
def pipeline(
    preset: str | None = None,
    config_file: str | None = None,
    overrides: list[str] | None = None,
    workspace: str | None = None,
) -> dict[str, Any]:
    """Corpus to tokens to checkpoint to MFU and scores.

    Args:
        preset: name of a preset; `tiny` when neither this nor a file is given.
        config_file: a YAML file laid over the preset.
        overrides: `key=value` pairs laid over both.
        workspace: directory of artifacts; `LONGCAT_WORKSPACE` or ./workspace when none.

    Returns:
        The summary that is also written to `summary.json` in the workspace.
    """
    return chain(
        "pipeline", ("preprocess", "pretrain", "benchmark", "evaluate"), preset, config_file, overrides, workspace
    )
