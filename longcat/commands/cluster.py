"""`longcat join`: this machine takes part in a training run that is started elsewhere; and `longcat doctor --nodes`."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from longcat.commands.options import WorkspacePath
from longcat.errors import ConfigError
from longcat.printable import printable


def join(
    address: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="Where the launcher waits for nodes; it prints it.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of this node (default: Slurm's, or the host's).")
    ] = None,
    workspace: WorkspacePath = Path("workspace"),
    wait_s: Annotated[
        float, typer.Option("--wait-s", metavar="SECONDS", help="Limit of a wait for the launcher.")
    ] = 600,
) -> None:
    """Join a training run with `training.launcher: join`: its processes of this machine are started from here."""
    from longcat.artifact import Workspace
    from longcat.disk import private_files
    from longcat.doctor import node_facts
    from longcat.processes.node import join as work
    from longcat.processes.orders import split_address

    try:
        hosts, port = split_address(address)
    except ValueError as error:
        raise ConfigError(f"{error}; the launcher prints where it waits for nodes") from None
    if wait_s <= 0:
        raise ConfigError(f"--wait-s={wait_s:g} is not above 0")
    name = name or os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    if not name or any(not (part.isalnum() or part in "-_.") for part in name):
        raise ConfigError(f"--name={name!r} is no name of a node: letters, digits, '-', '_' and '.' make one")
    folder = Workspace(workspace).path
    with private_files(folder):
        work(
            hosts.split(","),
            port,
            workspace=folder,
            name=name,
            facts=node_facts,
            wait_s=wait_s,
            say=lambda text: print(printable(text), flush=True),
        )


def examine_nodes(
    workspace: Path, preset: str | None, config: Path | None, overrides: list[str] | None, as_json: bool
) -> None:
    """Report what the nodes of a cluster have, and which one is unlike the others."""
    from longcat.artifact import Workspace
    from longcat.config import load_config
    from longcat.training.examining import examine_nodes as examine

    settings = load_config(preset, config, overrides or ())
    if settings.training.launcher == "local":
        raise ConfigError("--nodes needs training.launcher=slurm or join, and training.nodes (--set or --config)")
    space = Workspace(workspace)
    said = ""

    def say(message: str) -> None:
        nonlocal said
        if message != said:
            said = message
            print(message, file=sys.stderr, flush=True)

    with space.lease():
        report = examine(settings, space.path, say)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        from longcat.tables import print_pairs

        for name, facts in report["nodes"].items():
            print_pairs(name, {fact: "none" if value is None else value for fact, value in facts.items()})
        print_pairs(
            "links", {link: f"{speed / 1e9:.2f} GB/s" for link, speed in report["links_bytes_per_second"].items()}
        )
        print("\n".join(f"problem: {text}" for text in report["problems"]) or "no problem found")
    if report["problems"]:
        raise typer.Exit(2)
