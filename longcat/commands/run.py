"""`longcat run` and one command per stage; they run the flows in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longcat.commands.options import ConfigFile, Json, Overrides, Preset, Rehash, WorkspacePath
from longcat.hash_memory import REHASH


def flow_command(flow: str, title: str) -> Callable[..., None]:
    """Make the command that runs a flow.

    Args:
        flow: name of the flow.
        title: help text of the command.
    """

    def command(
        preset: Preset = None,
        config: ConfigFile = None,
        set_: Overrides = None,
        workspace: WorkspacePath = Path("workspace"),
        as_json: Json = False,
        rehash: Rehash = False,
    ) -> None:
        run_flow(flow, preset, config, set_, workspace, as_json, rehash=rehash)

    command.__doc__ = title
    return command


def run_flow(
    flow: str,
    preset: str | None,
    config: Path | None,
    overrides: list[str] | None,
    workspace: Path,
    as_json: bool,
    checkpoint: str | None = None,
    rehash: bool = False,
) -> None:
    """Run a flow in this process and print its summary."""
    summary = flow_summary(flow, preset, config, overrides, workspace, as_json, checkpoint, rehash=rehash)
    from longcat.tables import print_summary

    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        print_summary(summary)


def flow_summary(
    flow: str,
    preset: str | None,
    config: Path | None,
    overrides: list[str] | None,
    workspace: Path,
    quiet: bool,
    checkpoint: str | None = None,
    rehash: bool = False,
) -> dict[str, Any]:
    """Run a flow in this process, with its progress on the terminal unless `quiet`, and return its summary."""
    if rehash:
        os.environ[REHASH] = "1"
    from longcat.artifact import Workspace
    from longcat.config import load_config
    from longcat.disk import disk_errors
    from longcat.flows.dag import TRAINING, check, stages_of

    settings = load_config(preset, config, overrides or ())
    if not any(source.kind == "hub" for source in settings.corpus.sources):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    stages = stages_of(flow)
    workspace = workspace.expanduser().resolve()
    if checkpoint is None:
        if settings.training.init_from is not None:
            from longcat.training.given_start import with_start

            settings = with_start(settings, Workspace(workspace))
        check(settings, stages)  # mistakes are reported before a server is started, which takes seconds
    space = Workspace(workspace)
    with disk_errors(workspace), space.lease():
        from longcat.flows.server import prefect_api
        from longcat.progress import progress_listener
        from longcat.terminal import Display, redirected_output

        with (
            Display(quiet=quiet) as display,
            redirected_output(workspace / "logs" / "run.log", display.warn),
            progress_listener(display),
            prefect_api(workspace),
        ):
            from longcat.flows.pipeline import FLOWS

            if not quiet and checkpoint is None and any(stage.name == TRAINING for stage in stages):
                from longcat.training.decisions import decisions

                display.show(decisions(settings))
            summary: dict[str, Any] = FLOWS[flow](
                preset=preset,
                config_file=None if config is None else str(config),
                overrides=overrides or [],
                workspace=str(workspace),
                checkpoint=checkpoint,
            )
    return summary
