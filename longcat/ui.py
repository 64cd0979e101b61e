"""MLflow's and Prefect's own pages for a workspace."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from longcat.errors import UserError


def serve(workspace: Path, mlflow_port: int, prefect_port: int) -> None:
    """Run both servers on loopback until interrupted.

    Raises:
        UserError: nothing has been run in this workspace, or a server stopped.
    """
    if not (workspace / "mlflow.db").is_file():
        raise UserError(f"nothing has been run in {workspace} yet: try make pipeline")
    logs = workspace / "logs"
    logs.mkdir(exist_ok=True)
    offline = {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    prefect = {
        "PREFECT_HOME": str(workspace / "prefect"),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(prefect_port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    store = f"sqlite:///{workspace / 'mlflow.db'}"
    commands = {
        "mlflow": [
            "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1",
            "--backend-store-uri", store, "--default-artifact-root", str(workspace / "mlartifacts"),
        ],
        "prefect": ["-m", "prefect", "server", "start"],
    }  # fmt: skip
    servers = {}
    with contextlib.ExitStack() as stack:
        for name, arguments in commands.items():
            log = stack.enter_context((logs / f"{name}-ui.log").open("ab"))
            servers[name] = subprocess.Popen(
                [sys.executable, "-m", "longcat.training.lifeline", "5", sys.executable, *arguments],
                env={**os.environ, **offline, **prefect},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        print(
            f"MLflow   http://127.0.0.1:{mlflow_port}\nPrefect  http://127.0.0.1:{prefect_port}\nCtrl-C ends both.",
            flush=True,
        )
        try:
            while all(server.poll() is None for server in servers.values()):
                time.sleep(0.5)
            gone = next(name for name, server in servers.items() if server.poll() is not None)
            raise UserError(f"the {gone} server stopped; see {logs / f'{gone}-ui.log'} (is its port taken?)")
        finally:
            for server in servers.values():
                assert server.stdin is not None
                server.stdin.close()
            for server in servers.values():
                server.wait(20)
