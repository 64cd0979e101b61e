"""Where the pages of MLflow and Prefect are: at the user's own servers, or where `longcat ui` serves those of a workspace."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from longcat.artifact import write_json
from longcat.best_effort import own_servers
from longcat.unpacking import read_json

PORTS = {"MLflow": 5010, "Prefect": 4210}
"""Loopback ports of the first workspace whose pages are served; others get the next ones that are free."""
CHOSEN = "ui.json"
"""File of a workspace with the ports that links to its pages name."""
ARTIFACTS = "mlartifacts"
"""Folder of a workspace with the files of its runs in MLflow."""
_MOST = 100
_FOR_TRAINING = "workflowType=machine_learning"


def chosen_ports(workspace: Path) -> dict[str, int] | None:
    """Return the ports that a workspace's pages have been given; None if they have not been given any."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = read_json(workspace / CHOSEN)
        return {name: int(known[name]) for name in PORTS}
    return None


def choose_ports(workspace: Path, asked: Mapping[str, int | None] | None = None) -> dict[str, int]:
    """Return the ports of a workspace's pages, and keep to them from now on, so that links which are stored lead there.

    Args:
        workspace: its folder.
        asked: ports by the name of the server; None leaves one as it is, or free to choose.
    """
    before = chosen_ports(workspace)
    ports = dict(before or _free_pair())
    ports |= {name: port for name, port in (asked or {}).items() if port is not None}
    if ports != before:
        with suppress(OSError):  # the links may lead elsewhere then; nothing else depends on it
            write_json(workspace / CHOSEN, ports)
    return ports


def _free_pair() -> dict[str, int]:
    """Return the first ports at which nobody else serves; those of `PORTS` where there are none."""
    pairs = ({name: port + shift for name, port in PORTS.items()} for shift in range(_MOST))
    return next((pair for pair in pairs if all(map(is_free, pair.values()))), PORTS)


def is_free(port: int) -> bool:
    """Whether a server could listen at a loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def workspace_at(port: int) -> str | None:
    """Return the folder of the workspace whose MLflow pages are served at a loopback port; None if there are none."""
    ask = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=20"
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        with urllib.request.urlopen(ask, timeout=5) as answer:  # nosec B310 # a loopback address
            found = json.load(answer)["experiments"]
        folders = (Path(unquote(urlsplit(one["artifact_location"]).path)) for one in found)
        return next((str(folder.parent) for folder in folders if folder.name == ARTIFACTS), None)
    return None


def ui_address(name: str, workspace: Path) -> str:
    """Return where `longcat ui` serves the pages of a server for a workspace."""
    return f"http://127.0.0.1:{choose_ports(workspace)[name]}"


def pages_of_mlflow(workspace: Path) -> str:
    """Return where MLflow's pages are: those of the user's own server, or of the one that `longcat ui` starts."""
    return own_servers().get("MLflow") or ui_address("MLflow", workspace)


def experiment_page(pages: str, experiment_id: str) -> str:
    """Return the address of an experiment's runs.

    MLflow opens with the pages for chat unless the address asks for those for training.
    """
    return f"{pages}/#/experiments/{experiment_id}/runs?{_FOR_TRAINING}"


def run_page(pages: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run in MLflow."""
    return f"{pages}/#/experiments/{experiment_id}/runs/{run_id}?{_FOR_TRAINING}"
