"""`longcat emulate`, `doctor`, `verify`, `sync` and `ui`: tools for the machine, for results and for tracked runs."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.commands.cluster import examine_nodes
from longcat.commands.options import ConfigFile, Json, Overrides, Preset, WorkspacePath
from longcat.errors import Cancelled, ConfigError, TrackingError, UserError, WorkspaceBusyError
from longcat.printable import printable

if TYPE_CHECKING:
    from longcat.artifact import Workspace

_AS_LINKS = "the one that links name"


def emulate(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="PROGRAM [ARGUMENTS]...", help="Program to run, with its arguments.")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="OPERATOR", help="Say where an operator's numbers come from and what was checked, and run nothing."
        ),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Python of an environment with torch_npu (default: .venv-emulator's)."),
    ] = None,
) -> None:
    """Run a program, for example `python train.py`, with torch_npu on an Ascend NPU that is emulated on the CPU."""
    from longcat.emulator.command import EXPLAIN
    from longcat.emulator.command import emulate as run_emulated

    if (explain is None) == (command is None):
        raise UserError("emulate takes a program to run, or --explain OPERATOR")
    run_emulated([*EXPLAIN, explain] if explain is not None else command or [], python)


def doctor(
    workspace: WorkspacePath = Path("workspace"),
    as_json: Json = False,
    nodes: Annotated[
        bool,
        typer.Option(
            "--nodes",
            rich_help_panel="Several machines",
            help="Compare the nodes of training.launcher instead, and try out what they share.",
        ),
    ] = False,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Report devices, versions and problems of this machine, or of all nodes of a cluster."""
    folder = workspace.expanduser().resolve()
    if nodes:
        examine_nodes(folder, preset, config, set_, as_json)
        return
    if preset or config or set_:
        raise ConfigError("--preset, --config and --set belong to --nodes")
    from longcat.doctor import examine

    facts = examine(folder)
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        from longcat.tables import print_diagnosis

        print_diagnosis(facts)
    if facts["problems"]:
        raise typer.Exit(2)


def verify(workspace: WorkspacePath = Path("workspace"), as_json: Json = False) -> None:
    """Read every file of every finished result, and compare it with what was written."""
    from longcat.artifact import Workspace
    from longcat.artifact import verify as verify_artifact
    from longcat.disk import disk_errors
    from longcat.errors import ArtifactError

    if not workspace.expanduser().is_dir():
        raise ConfigError(f"--workspace {workspace}: there is no such folder")
    space, rows = Workspace(workspace), list[dict[str, Any]]()
    with disk_errors(space.path):
        for path in space.finished():
            try:
                rows.append({"path": str(path), "files": verify_artifact(path), "problem": None})
            except ArtifactError as error:
                rows.append({"path": str(path), "files": None, "problem": str(error)})
    damaged = sum(row["problem"] is not None for row in rows)
    if as_json:
        print(json.dumps({"artifacts": rows, "damaged": damaged}, indent=2, ensure_ascii=False))
    else:
        for row in rows:
            print(printable(row["problem"] or f"{row['path']}: {row['files']} files are intact"))
        print(f"{len(rows)} finished results, {damaged} damaged" if rows else "there are no finished results")
    if damaged:
        raise typer.Exit(2)


def sync(workspace: WorkspacePath = Path("workspace")) -> None:
    """Send MLflow the records of runs during which it could not be reached."""
    from longcat.artifact import Workspace

    sent = _send(Workspace(workspace))
    print(f"sent {_runs(sent)}" if sent else "nothing to send")


def _send(space: Workspace) -> int:
    """Send MLflow what runs have left, with warnings on stderr; returns of how many runs."""
    from longcat.disk import disk_errors, private_files
    from longcat.terminal import redirected_output
    from longcat.tracking.sync import sync as send

    warnings = list[str]()
    try:
        with (
            disk_errors(space.path),
            private_files(space.path),
            redirected_output(space.path / "logs" / "sync.log", warnings.append),
        ):
            return send(space)
    finally:
        for warning in warnings:
            _warn(warning)


def _send_before_showing(space: Workspace) -> None:
    """Send MLflow what runs have left, so that its pages are whole, or say that they are not."""
    try:
        if sent := _send(space):
            print(f"sent MLflow the records that {_runs(sent)} had left")
    except WorkspaceBusyError:
        pass  # whoever works there sends its own records, and what others have left
    except TrackingError as error:
        _warn(
            f"{error}; until `longcat sync --workspace {quote(str(space.path))}` has sent them, MLflow's pages lack them and "
            "may show runs as running that have ended"
        )


def _runs(number: int) -> str:
    return f"{number} run{'' if number == 1 else 's'}"


def _warn(text: str) -> None:
    print(f"warning: {printable(text)}", file=sys.stderr)


def ui(
    workspace: WorkspacePath = Path("workspace"),
    mlflow_port: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Where they listen", help="Loopback port of MLflow's pages.", show_default=_AS_LINKS
        ),
    ] = None,
    prefect_port: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Where they listen", help="Loopback port of Prefect's pages.", show_default=_AS_LINKS
        ),
    ] = None,
) -> None:
    """Serve the pages of MLflow and Prefect for a workspace, until Ctrl-C."""
    from longcat.artifact import Workspace
    from longcat.tracking.store import prepare
    from longcat.ui import serve

    path = workspace.expanduser().resolve()
    with contextlib.suppress(KeyboardInterrupt, Cancelled):  # the usual ways to stop it
        if (path / "prefect").is_dir():
            prepare(Workspace(path))
            _send_before_showing(Workspace(path))
        serve(path, mlflow_port, prefect_port)
