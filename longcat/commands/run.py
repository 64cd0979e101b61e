"""`longcat run` and one command per stage; they run the flows in this process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from longcat.commands.options import ConfigFile, Json, Overrides, Preset, Rehash, WorkspacePath
from longcat.flows.dag import PIPELINE
from longcat.hash_memory import REHASH


def run(
    stage: Annotated[
        str,
        typer.Argument(metavar="[STAGE]", help="Only a stage and what it needs, also package.module:NAME of your own."),
    ] = PIPELINE,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    workspace: WorkspacePath = Path("workspace"),
    as_json: Json = False,
    rehash: Rehash = False,
) -> None:
    """Run the whole pipeline, or one stage of it."""
    run_flow(stage, preset, config, set_, workspace, as_json, rehash=rehash)


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
        print_summary(summary, _since_start())


def _since_start() -> float:
    """Return the seconds since this program was started, imports included."""
    import psutil

    return time.time() - psutil.Process().create_time()


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
    from longcat.flows.session import ready, run_here

    workspace = workspace.expanduser().resolve()
    with ready(flow, preset, config, overrides, workspace, checkpoint) as (settings, stages):
        from longcat.flows.dag import TRAINING
        from longcat.progress import progress_listener
        from longcat.terminal import Display, redirected_output

        with (
            Display(quiet=quiet) as display,
            redirected_output(workspace / "logs" / "run.log", display.warn),
            progress_listener(display),
        ):
            if not quiet and checkpoint is None and any(stage.name == TRAINING for stage in stages):
                from longcat.training.decisions import decisions

                display.show(decisions(settings))
            return run_here(flow, preset, config, overrides, workspace, checkpoint)
