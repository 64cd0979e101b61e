"""`longcat emulate`, `doctor`, `sync` and `ui`: the machine, and the pages about what was run."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer

from longcat.commands.options import Json, WorkspacePath
from longcat.errors import Cancelled


def emulate(
    command: Annotated[list[str], typer.Argument(metavar="PROGRAM [ARGUMENTS]...", help="What to run.")],
    python: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Python of an environment with torch_npu (default: .venv-emulator's)."),
    ] = None,
) -> None:
    """Run a program, for example `python train.py`, with torch_npu on an Ascend emulated on the CPU."""
    from longcat.emulator.command import emulate as run_emulated

    run_emulated(command, python)


def doctor(workspace: WorkspacePath = Path("workspace"), as_json: Json = False) -> None:
    """Say what this machine can do, and what is missing."""
    from longcat.doctor import examine

    facts = examine(workspace.expanduser().resolve())
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        from longcat.terminal import print_pairs

        accelerator, versions, problems = (facts.pop(name) for name in ("accelerator", "versions", "problems"))
        print_pairs(
            "this machine",
            {name: "none" if value is None else value for name, value in facts.items()}
            | {f"accelerator {name}": value for name, value in (accelerator or {}).items()},
        )
        print_pairs("packages", {name: version or "not installed" for name, version in versions.items()})
        print("\n".join(f"problem: {text}" for text in problems) or "no problem found")
        facts["problems"] = problems
    if facts["problems"]:
        raise typer.Exit(2)


def sync(workspace: WorkspacePath = Path("workspace")) -> None:
    """Send MLflow what it missed while it could not be reached."""
    from longcat.artifact import Workspace
    from longcat.terminal import aside
    from longcat.tracking import sync as send

    space = Workspace(workspace)
    with aside(space.path / "logs" / "sync.log", lambda _: None):
        sent = send(space)
    print(f"sent {sent} run{'' if sent == 1 else 's'}" if sent else "nothing to send")


def ui(
    workspace: WorkspacePath = Path("workspace"),
    mlflow_port: Annotated[int, typer.Option(help="Loopback port of MLflow's pages.")] = 5010,
    prefect_port: Annotated[int, typer.Option(help="Loopback port of Prefect's pages.")] = 4210,
) -> None:
    """Show MLflow and Prefect for what was run in a workspace, until Ctrl-C."""
    from longcat.ui import serve

    with contextlib.suppress(KeyboardInterrupt, Cancelled):  # the ways to end it
        serve(workspace.expanduser().resolve(), mlflow_port, prefect_port)
