"""Prefect as a run sees it: best effort.

Flows and tasks run under Prefect's engine, but only what they return or raise themselves counts. A server that fails,
hangs or refuses costs at most one bounded wait; from then on its requests are refused here, and where the engine cannot
start at all, the work runs without it. Everything else that is told to Prefect is told by a thread, which nobody waits
for.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from contextvars import Context, ContextVar, copy_context
from typing import Any
from uuid import UUID

import httpx
from prefect import Flow, Task, get_client
from prefect._internal.concurrency.api import create_call, from_sync
from prefect.context import FlowRunContext, SyncClientContext, TaskRunContext
from prefect.exceptions import CancelledRun, TerminationSignal
from prefect.logging import get_run_logger
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_RETRY_JITTER_FACTOR,
    temporary_settings,
)
from prefect.utilities.callables import get_call_parameters

from longcat.best_effort import Service, own_servers
from longcat.errors import LongcatError

REQUEST_S = 5.0
"""Longest wait for the answer to a request."""
CONNECT_S = 1.0
"""Longest wait for a connection; Prefect tries it four times."""
KEEP_S = 2.0
"""Longest use of an idle connection: a server closes them after 5 s, which would look like a failure."""
RETRIES = 1
"""Further attempts at a request, for connections that are lost by chance."""
PAUSE_S = 5.0
"""Time until a server that has failed is asked again."""
SETTLE_S = 5.0
"""Longest wait, at the end of a run, for what Prefect has still to be told."""
_BACK_OFF_S = 2.0
"""Prefect's pause before its first retry."""
_BUSY = {408, 429}

_open: ContextVar[Prefect | None] = ContextVar("prefect", default=None)


class Prefect:
    """The Prefect server of a run, through a thread that tells it what happens."""

    def __init__(self, address: str) -> None:
        self.service = Service(
            "Prefect", address, "the run goes on, and Prefect's pages will lack what it has not been told"
        )
        self.pages = own_servers().get("Prefect")
        """Address of the pages that show the run later; None where it is not known."""
        self.without_engine = False
        """Whether flow and tasks run without Prefect's engine."""
        self.cancelling = False
        """Whether somebody has cancelled the flow run."""
        self._calls: queue.Queue[tuple[Context, Callable[[], object]]] = queue.Queue()
        self._closing = threading.Event()
        self._client: SyncClientContext | None = None
        self._unanswered, self._asked = 0, 0.0
        threading.Thread(target=self._send, daemon=True, name="prefect-sender").start()

    def tell(self, call: Callable[..., object], *arguments: Any, **options: Any) -> None:
        """Have a function that calls Prefect run by the thread, in the present context, again until it succeeds."""
        if not self.without_engine:  # there is no run to tell of
            self._calls.put((copy_context(), functools.partial(call, *arguments, **options)))

    def mention(self, call: Callable[..., object], *arguments: Any) -> None:
        """Have a function run as `tell` does, unless other calls are waiting."""
        if not self._calls.unfinished_tasks:
            self.tell(call, *arguments)

    def ask_for_cancellation(self, flow_run: UUID) -> None:
        """Look whether a flow run has been cancelled; called by the thread."""
        state = get_client(sync_client=True).read_flow_run(flow_run).state
        self.cancelling = state is not None and state.is_cancelling()

    def run(
        self,
        engine: Callable[[Callable[..., Any]], Any],
        function: Callable[..., Any],
        parameters: Mapping[str, Any],
    ) -> Any:
        """Return what a function returns, or raise what it raises, whatever becomes of the engine that calls it.

        Args:
            engine: calls the function that it is given, once or again, and returns what it returned.
            function: the work.
            parameters: its arguments, for a call without the engine.
        """
        outcome = _Outcome(function)
        try:
            return engine(outcome.call)
        except (LongcatError, CancelledRun):
            raise
        except Exception as error:
            if error is outcome.raised:
                raise
            self._count(error)
        if outcome.returned:
            return outcome.value
        if outcome.raised is None:
            self.without_engine = True
            return function(**parameters)
        if isinstance(outcome.raised, TerminationSignal):
            signal.raise_signal(outcome.raised.signal)  # for the handler that Prefect's stood in for
        raise outcome.raised from None

    @contextlib.contextmanager
    def client(self) -> Iterator[None]:
        """Give the engine a client that waits once at most: after an unanswered request it refuses all others."""
        hooks = {"request": [self._before_request], "response": [self._after_response]}
        timeout = httpx.Timeout(REQUEST_S, connect=CONNECT_S)
        limits = httpx.Limits(keepalive_expiry=KEEP_S)
        with SyncClientContext(httpx_settings={"event_hooks": hooks, "timeout": timeout, "limits": limits}):
            yield

    def close(self) -> None:
        """Wait a bounded time until Prefect has been told everything; none at all if it is away."""
        end = time.monotonic() + SETTLE_S
        while self._calls.unfinished_tasks and not self.service.away and time.monotonic() < end:
            time.sleep(0.02)
        self._closing.set()
        with contextlib.suppress(Exception):
            _end_workers(0 if self.service.away else max(0, end - time.monotonic()))

    def _before_request(self, request: httpx.Request) -> None:
        if self._unanswered > RETRIES or (
            self._unanswered and time.monotonic() - self._asked > _BACK_OFF_S + REQUEST_S / 2
        ):
            self.service.failed("it left a request without an answer")
        if self.service.away:
            self._unanswered = 0
            raise _AwayError("Prefect has failed before")
        self._unanswered += 1
        self._asked = time.monotonic()

    def _after_response(self, response: httpx.Response) -> None:
        self._unanswered = 0
        if _is_failure(response):  # Prefect would ask again, as long and as often as the server likes
            self.service.failed(_describe(response), answered=True)
            raise _AwayError(_describe(response))

    def _count(self, error: Exception) -> None:
        """Report an error of Prefect's."""
        if isinstance(error, _AwayError):
            return
        cause = error.__cause__ if isinstance(error.__cause__, httpx.HTTPError) else error
        response = cause.response if isinstance(cause, httpx.HTTPStatusError) else None
        if response is None:
            self.service.failed(cause)
        elif _is_failure(response):
            self.service.failed(_describe(response), answered=True)
        else:
            self.service.refused(_describe(response))

    def _send(self) -> None:
        while True:
            context, call = self._calls.get()
            while not self._made(context, call) and not self._closing.wait(PAUSE_S):
                continue
            self._calls.task_done()

    def _made(self, context: Context, call: Callable[[], object]) -> bool:
        """Make a call; returns whether it is done with."""
        if self._closing.is_set() and self.service.away:
            return True
        try:
            context.run(self._alone, call)
        except Exception as error:
            self._count(error)
            return isinstance(error, httpx.HTTPStatusError) and not _is_failure(error.response)
        self.service.answered()
        return True

    def _alone(self, call: Callable[[], object]) -> None:
        """Make a call with the thread's own client, which goes on asking when the engine's does not."""
        if self._client is None:
            SyncClientContext.__var__.set(None)
            self._client = SyncClientContext()
        SyncClientContext.__var__.set(self._client)
        call()


@contextlib.contextmanager
def prefect_session() -> Iterator[Prefect]:
    """Open what a run has of Prefect, with short waits; a session that is open already is used."""
    if (session := _open.get()) is not None:
        yield session
        return
    settings = {
        PREFECT_API_REQUEST_TIMEOUT: REQUEST_S,
        PREFECT_CLIENT_MAX_RETRIES: RETRIES,
        PREFECT_CLIENT_RETRY_JITTER_FACTOR: 0,
    }
    with temporary_settings(settings):
        session = Prefect(PREFECT_API_URL.value() or "its default address")
        token = _open.set(session)
        try:
            yield session
        finally:
            session.close()
            _open.reset(token)


def tell(call: Callable[..., object], *arguments: Any, **options: Any) -> None:
    """Have a function that calls Prefect run by the session's thread, again until it succeeds."""
    with prefect_session() as session:
        session.tell(call, *arguments, **options)


def run_logger() -> Any:
    """Return the logger of the flow or task run, or that of longcat where there is none."""
    try:
        return get_run_logger()
    except Exception:
        return logging.getLogger("longcat")


def prefect_tags() -> dict[str, str]:
    """Return the ids of Prefect's flow run and task run, and the address of its page, as tags of MLflow's run."""
    flow_run, context = flow_run_id(), TaskRunContext.get()
    if flow_run is None:
        return {}
    tags = {"prefect.flow_run_id": str(flow_run)}
    if context is not None:
        tags["prefect.task_run_id"] = str(context.task_run.id)
    with prefect_session() as session:
        if session.pages:
            tags["prefect.url"] = f"{session.pages}/runs/flow-run/{flow_run}"
    return tags


def flow_run_id() -> UUID | None:
    """Return the id of the flow run that this is called in; None without one."""
    context, task_run = FlowRunContext.get(), TaskRunContext.get()
    if context is not None and context.flow_run is not None:
        return context.flow_run.id
    return None if task_run is None else task_run.task_run.flow_run_id


class BestEffortFlow(Flow):
    """A flow whose result does not depend on Prefect's server."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run the flow and return what it returns; raises what it raises."""
        if options.keys() & {"return_state", "wait_for"}:  # Prefect's own objects are wanted
            return super().__call__(*arguments, **options)
        parameters = self.validate_parameters(get_call_parameters(self.fn, arguments, options))

        def engine(function: Callable[..., Any]) -> Any:
            with session.client():
                return Flow.__call__(_with(self, function), **parameters)

        with prefect_session() as session:
            if session.service.away:
                session.without_engine = True
                return self.fn(**parameters)
            return session.run(engine, self.fn, parameters)


class BestEffortTask(Task):
    """A task whose result does not depend on Prefect's server."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run the task and return what it returns; raises what it raises."""
        parameters = get_call_parameters(self.fn, arguments, options)

        def engine(function: Callable[..., Any]) -> Any:
            return Task.__call__(_with(self, function), **parameters)

        with prefect_session() as session:
            if session.without_engine:
                return self._alone(parameters)
            return session.run(engine, self.fn, parameters)

    def _alone(self, parameters: Mapping[str, Any]) -> Any:
        """Run the task with its retries, but without the engine."""
        for _ in range(self.retries):
            try:
                return self.fn(**parameters)
            except LongcatError:
                raise
            except Exception:
                run_logger().exception("%s failed and is tried again", self.name)
                time.sleep(self.retry_delay_seconds)
        return self.fn(**parameters)


class _Outcome:
    """What a function returned or raised when it was called last."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.value: Any = None
        self.returned = False
        self.raised: BaseException | None = None

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            self.returned, self.raised = False, None
            try:
                self.value = function(*arguments, **options)
            except BaseException as error:
                self.raised = error
                raise
            self.returned = True
            return self.value

        self.call = call


class _AwayError(Exception):
    """Refusal of a request to a server that has failed."""


def _with(run: Any, function: Callable[..., Any]) -> Any:
    twin = copy.copy(run)
    twin.fn = function
    return twin


def _is_failure(response: httpx.Response) -> bool:
    return response.status_code >= 500 or response.status_code in _BUSY


def _describe(response: httpx.Response) -> str:
    request = response.request
    return f"{response.status_code} {response.reason_phrase} for {request.method} {request.url.path}"


def _end_workers(within_s: float) -> None:
    """End the services by which Prefect sends logs and events; what they wait for longer than that is cancelled.

    The interpreter would otherwise wait for them as it ends, without a limit.
    """
    _, left = APILogWorker.drain_all(timeout=within_s)  # of every service
    if left:
        from_sync.call_soon_in_loop_thread(create_call(_cancel_services)).result(timeout=1)
        wait(left, timeout=1)


async def _cancel_services() -> None:
    for task in asyncio.all_tasks():
        if getattr(task.get_coro(), "__qualname__", "").endswith("QueueServiceBase._run"):
            task.cancel()
