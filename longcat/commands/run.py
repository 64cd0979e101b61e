"""`longcat run` and one command per stage: the flows, run in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longcat.commands.options import ConfigFile, Json, Overrides, Preset, WorkspacePath


def flow_command(flow: str, title: str) -> Callable[..., None]:
    """Make the command that runs a flow.

    Args:
        flow: its name.
        title: the command's help.
    """

    def command(
        preset: Preset = None,
        config: ConfigFile = None,
        set_: Overrides = None,
        workspace: WorkspacePath = Path("workspace"),
        as_json: Json = False,
    ) -> None:
        run_flow(flow, preset, config, set_, workspace, as_json)

    command.__doc__ = title
    return command


def run_flow(
    flow: str, preset: str | None, config: Path | None, overrides: list[str] | None, workspace: Path, as_json: bool
) -> None:
    """Run a flow in this process and print its summary."""
    from longcat.artifact import Workspace
    from longcat.config import load_config

    settings = load_config(preset, config, overrides or ())  # mistakes are reported before anything is started
    workspace = workspace.expanduser().resolve()
    space = Workspace(workspace)
    if not any(source.kind == "hub" for source in settings.corpus.sources):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with space.lease():
        from flows.server import prefect_api
        from longcat.progress import listening
        from longcat.terminal import Display, aside, print_summary

        with (
            Display(quiet=as_json) as display,
            aside(workspace / "logs" / "run.log", display.warn),
            listening(display),
            prefect_api(workspace),
        ):
            from flows.pipeline import FLOWS

            summary: dict[str, Any] = FLOWS[flow](
                preset=preset,
                config_file=None if config is None else str(config),
                overrides=overrides or [],
                workspace=str(workspace),
            )
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        print_summary(summary)
