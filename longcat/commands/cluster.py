"""`longcat join`: this machine takes part in a training run that is started elsewhere."""

from __future__ import annotations

import os
import socket
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
