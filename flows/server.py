"""Prefect API for runs on one machine: the user's own server, or one that runs as long as the context."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from longcat.processes.child import free_port, supervised
from longcat.processes.environment import server_environment
from longcat.stores import clear_half_made, put_back, set_aside, set_aside_if_damaged
from longcat.ui_pages import ui_address

START_S = 300.0
"""Longest wait for a server of our own; one that has died is noticed at once."""
IDLE_S = 15.0
"""Longest wait for a server that uses no processor: a slow one is busy."""
SETTLE_S = 5.0
WATCH_S = 1.0
"""Pause between two looks at whether it still runs."""
_SIGNALS = 128
"""Exit codes above are a signal's, which has ended the server."""


@contextmanager
def prefect_api(workspace: Path) -> Iterator[None]:
    """Make `PREFECT_API_URL` point to a running server while the context is open.

    A server of our own starts at once and is waited for only when prefect has been imported, which takes as long; it
    is supervised, so it ends with this process, however that happens. Its database stays in the workspace, where
    `longcat ui` shows the runs. One that ends meanwhile is started again. Without a server that answers, the run goes on and a
    warning says so.
    """
    if os.environ.get("PREFECT_API_URL"):
        from longcat.tasks.orchestrator import prefect_session

        with prefect_session():
            yield
        return
    server = _Server(workspace)
    # heartbeats make a lost worker's run visible; here they would only add a second to every flow
    os.environ.update(
        {
            "PREFECT_API_URL": server.url,
            "PREFECT_HOME": str(server.database.parent),
            "DO_NOT_TRACK": "true",
            "PREFECT_LOGGING_LEVEL": "INFO",
        }
    )
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")  # a script's output is its own
    pages = ui_address("Prefect", workspace)  # this server ends with the run
    try:
        with ExitStack() as stack:
            server.start(stack)
            from prefect.settings import (
                PREFECT_API_URL,
                PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
                PREFECT_UI_URL,
                temporary_settings,
            )

            import longcat.flows.pipeline  # noqa: F401  (loaded while the server starts)
            from longcat.flows.abandoned import close_abandoned
            from longcat.tasks.orchestrator import prefect_session

            settings = {PREFECT_API_URL: server.url, PREFECT_UI_URL: pages, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
            with temporary_settings(settings):
                try:
                    with prefect_session() as session:
                        session.pages = pages
                        if problem := server.wait(stack):
                            session.service.failed(problem)
                        else:
                            session.tell(close_abandoned, datetime.now(UTC))
                            stack.enter_context(server.kept_running())
                        yield
                finally:  # a failed run's states and logs matter most
                    if not session.service.away:
                        with suppress(Exception):
                            _settle()
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        with suppress(OSError):  # it may have been killed while it made its database
            clear_half_made(server.database)


class _Server:
    """A Prefect server with its database in a workspace."""

    def __init__(self, workspace: Path) -> None:
        self.database = workspace / "prefect" / "prefect.db"
        self.log = workspace / "logs" / "prefect-server.log"
        for folder in (self.database.parent, self.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._process: subprocess.Popen[bytes]

    def start(self, stack: ExitStack) -> None:
        """Start the server, which ends with the stack; a damaged database is set aside first."""
        set_aside_if_damaged(self.database)
        command = [sys.executable, "-m", "longcat.flows.prefect_server", str(self.database)]
        environment = server_environment(str(self.database.parent), self.port)
        self._process = stack.enter_context(supervised(command, log=self.log, environment=environment))

    def wait(self, stack: ExitStack) -> str | None:
        """Wait until the server answers; returns why it does not.

        One that fails is started again with a new database, in case the old one is the cause; one that a signal has ended,
        or that has ended without a failure, has been ended by somebody.
        """
        problem = self._answer()
        code = self._process.poll()
        if problem is None or code is None or not 0 < code < _SIGNALS or not self.database.exists():
            return problem
        aside = set_aside(self.database, "lets the Prefect server end")
        self.start(stack)
        if again := self._answer():
            self._process.kill()
            put_back(aside, self.database)
            return again
        return None

    @contextmanager
    def kept_running(self) -> Iterator[None]:
        """Start the server again, once, if it ends while the context is open.

        Nobody waits for it: the session's thread finds out when it answers.
        """
        closing = threading.Event()
        with ExitStack() as again:

            def watch() -> None:
                while not closing.wait(WATCH_S):
                    if self._process.poll() is not None:
                        with suppress(OSError):  # of a disk that is full, for example
                            self.start(again)
                        return

            thread = threading.Thread(target=watch, daemon=True, name="prefect-server")
            thread.start()
            try:
                yield
            finally:
                closing.set()
                thread.join()

    def _answer(self) -> str | None:
        began = busy = time.monotonic()
        used = 0.0
        while time.monotonic() - began < START_S:
            if self._process.poll() is not None:
                return f"its server has ended, see {self.log}"
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):  # nosec B310 # a loopback address of our own
                    return None
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
            now = _processor_s(self._process.pid)
            if abs(now - used) > 0.05:  # it falls when a child ends
                used, busy = now, time.monotonic()
            elif time.monotonic() - busy > IDLE_S:
                return f"its server is idle and does not answer, see {self.log}"
        return f"its server did not answer within {START_S:g} s, see {self.log}"


def _processor_s(pid: int) -> float:
    """Return the processor time that the descendants of a process have used, in seconds."""
    total = 0.0
    with suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
    return total


def _settle() -> None:
    """Wait until the server has stored the last task-run states, which are sent as events."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterState, TaskRunFilterStateType
    from prefect.client.schemas.objects import StateType

    unfinished = TaskRunFilter(
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    )
    end = time.monotonic() + SETTLE_S
    with get_client(sync_client=True) as client:
        while time.monotonic() < end:
            if not client.read_task_runs(task_run_filter=unfinished, limit=1):
                return
            time.sleep(0.1)
