"""Web servers of MLflow and Prefect for the runs in a workspace."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from longcat.best_effort import own_servers
from longcat.disk import disk_errors, private_files
from longcat.errors import UserError
from longcat.processes.child import supervised
from longcat.processes.environment import NO_TELEMETRY, server_environment
from longcat.stores import remove_misspelt_folder, set_aside_if_damaged, sqlite_url
from longcat.ui_pages import ARTIFACTS, choose_ports, chosen_ports, experiment_page, is_free, workspace_at
from longcat.unpacking import read_json

START_S = 120.0


@dataclass(frozen=True)
class _Server:
    name: str
    port: int
    health: str
    """Path that answers once the server is ready."""
    arguments: list[str]
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + self.health, timeout=2):  # nosec B310 # a loopback address of our own
                return True
        except (urllib.error.URLError, OSError):
            return False


def serve(workspace: Path, mlflow_port: int | None, prefect_port: int | None) -> None:
    """Run both servers on loopback until interrupted, at the ports that links to the workspace's pages name unless others are asked for.

    The address that is printed for MLflow is that of the runs of the experiment that this workspace used last, as its home page leads a first
    visitor elsewhere. If the user has a server of their own (`MLFLOW_TRACKING_URI`, `PREFECT_API_URL`), its address is printed instead.

    Raises:
        UserError: nothing has been run in this workspace, a port is taken, or a server stopped.
    """
    if not (workspace / "prefect").is_dir():
        raise UserError(
            f"nothing has been run in {workspace} yet: run `longcat run` first, or choose another --workspace"
        )
    own = own_servers()
    asked = {"MLflow": mlflow_port, "Prefect": prefect_port}
    before = chosen_ports(workspace) or {}
    ports = before | {name: port for name, port in asked.items() if port is not None}
    for name, port in ports.items():
        if name not in own:
            _require_free(name, port, workspace)
    ports = choose_ports(workspace, asked)
    servers = [server for server in _servers(workspace, ports) if server.name not in own]
    set_aside_if_damaged(workspace / "prefect" / "prefect.db")
    logs = workspace / "logs"
    with contextlib.ExitStack() as stack:
        stack.enter_context(disk_errors(workspace))
        stack.enter_context(private_files(workspace))
        logs.mkdir(exist_ok=True)
        started = [(server, stack.enter_context(_supervised(server, logs))) for server in servers]
        for server, process in started:
            _wait(server, process, logs)
        remove_misspelt_folder(workspace / "mlflow.db")
        for name, url in own.items():
            print(f"{name:<8} {_first_page(name, url, workspace)} (your own server)")
        for server in servers:
            print(f"{server.name:<8} {_first_page(server.name, server.url, workspace)}")
            if server.port != before.get(server.name, server.port):
                print(f"         (links that earlier runs have stored lead to port {before[server.name]})")
        print("Press Ctrl-C to stop.", flush=True)
        while servers:
            for server, process in started:
                if process.poll() is not None:
                    raise UserError(f"the {server.name} server stopped; see {_log(server, logs)}")
            time.sleep(0.5)


def _servers(workspace: Path, ports: Mapping[str, int]) -> list[_Server]:
    return [
        _Server(
            name="MLflow",
            port=ports["MLflow"],
            health="/health",
            arguments=[
                "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(ports["MLflow"]), "--workers", "1",
                "--backend-store-uri", sqlite_url(workspace / "mlflow.db"),
                "--default-artifact-root", str(workspace / ARTIFACTS),
            ],
            # without seven job processes of 250 MB that nothing here needs
            environment={**NO_TELEMETRY, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        ),
        _Server(
            name="Prefect",
            port=ports["Prefect"],
            health="/api/health",
            arguments=["-m", "longcat.flows.prefect_server", str(workspace / "prefect" / "prefect.db")],
            environment=server_environment(str(workspace / "prefect"), ports["Prefect"]),
        ),
    ]  # fmt: skip


def _first_page(name: str, url: str, workspace: Path) -> str:
    """Return the page of a server that shows runs; its home page where it has none, or does not say."""
    if name != "MLflow":
        return f"{url}/runs"
    experiment = "longcat"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        experiment = str(read_json(workspace / "summary.json")["mlflow"]["experiment"])
    ask = f"{url}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(experiment)}"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        with urllib.request.urlopen(ask, timeout=5) as answer:  # nosec B310 # an address of ours, or of the user's own server
            found = json.load(answer)["experiment"]
        return experiment_page(url, str(found["experiment_id"]))
    return url


def _supervised(server: _Server, logs: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    command = [sys.executable, *server.arguments]
    return supervised(command, log=_log(server, logs), environment=server.environment)


def _wait(server: _Server, process: subprocess.Popen[bytes], logs: Path) -> None:
    end = time.monotonic() + START_S
    while not server.answers():
        if process.poll() is not None or time.monotonic() > end:
            raise UserError(f"the {server.name} server did not start; see {_log(server, logs)}")
        time.sleep(0.2)


def _log(server: _Server, logs: Path) -> Path:
    return logs / f"{server.name.lower()}-ui.log"


def _require_free(name: str, port: int, workspace: Path) -> None:
    if is_free(port):
        return
    there = workspace_at(port) if name == "MLflow" else None
    by = (
        "" if there is None
        else ": the pages of this workspace are served there already" if there == str(workspace)
        else f": the pages of the workspace {there} are served there"
    )  # fmt: skip
    raise UserError(f"port {port} is taken{by}; choose another with --{name.lower()}-port")
