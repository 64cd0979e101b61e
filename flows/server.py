"""A Prefect API for runs on one machine: the user's own if there is one, else a server for the time of the run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from longcat.processes.child import free_port, supervised
from longcat.processes.environment import server_environment

START_S = 300.0
"""A server that has died is noticed at once; this is for one that is slow because the machine is busy."""
SETTLE_S = 5.0


@contextmanager
def prefect_api(workspace: Path) -> Iterator[None]:
    """Have `PREFECT_API_URL` point to a live server while the context is open.

    A server of our own starts at once and is waited for only when prefect has been imported, which takes as long; it
    is supervised, so it ends with this process, however that happens. Its database stays in the workspace, where
    `longcat ui` shows the runs.
    """
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    home, port = workspace / "prefect", free_port()
    logs = workspace / "logs"
    for folder in (home, logs):
        folder.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}/api"
    # heartbeats make a lost worker's run visible; here they would only add a second to every flow
    os.environ.update(
        {"PREFECT_API_URL": url, "PREFECT_HOME": str(home), "DO_NOT_TRACK": "true", "PREFECT_LOGGING_LEVEL": "WARNING"}
    )
    command = [sys.executable, "-m", "prefect", "server", "start"]
    log = logs / "prefect-server.log"
    try:
        with supervised(command, log=log, environment=server_environment(str(home), port)) as server:
            from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

            import flows.pipeline  # noqa: F401  (loaded while the server starts)

            _wait(url, server, logs)
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                try:
                    yield
                finally:  # a failed run's states and logs matter most
                    with suppress(Exception):
                        _settle()
    finally:
        os.environ.pop("PREFECT_API_URL", None)


def _wait(url: str, server: subprocess.Popen[bytes], logs: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the Prefect server did not start; see {logs / 'prefect-server.log'}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the Prefect server did not answer within {START_S:g} s; see {logs / 'prefect-server.log'}")


def _settle() -> None:
    """Send the last log lines, and give the server time to store the last states of task runs, which travel as events."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterState, TaskRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=SETTLE_S)
    unfinished = TaskRunFilter(
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    )
    end = time.monotonic() + SETTLE_S
    with get_client(sync_client=True) as client:
        while time.monotonic() < end:
            if not client.read_task_runs(task_run_filter=unfinished, limit=1):
                return
            time.sleep(0.1)
