"""Hours of orders that clients send: the model's decisions beside those of a greedy and of an exact dispatcher.

What is compared, and how, is `longcat.evaluation.local_services`. It runs in a process of its own, which asks the model
through the engine, between two tokens of other clients' texts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from longcat.errors import DataError
from longcat.evaluation.local_services import apart
from longcat.evaluation.local_services.dispatcher import Preference
from longcat.evaluation.local_services.preference import continuations, preference
from longcat.inference.opening import OpenCheckpoint
from longcat.local_services.city import Scene, hour_from_json
from longcat.serve.engine import Engine
from longcat.serve.failure import ApiError
from longcat.serve.metrics import Metrics
from longcat.serve.streaming import unless_gone

T = TypeVar("T")

AT_ONCE = 2
"""Most comparisons at a time: each computes on a core of its own."""
_SEARCH = 0.8
"""Part of the time limit after which the search in hindsight ends with what it has."""
_LONGEST_LINE = 1 << 26
_WHERE = "the body"


class Dispatching:
    """Compares dispatchers over the orders of clients."""

    def __init__(
        self, checkpoint: OpenCheckpoint, engine: Engine, metrics: Metrics, *, most: int, seconds: float
    ) -> None:
        """Make it for a model.

        Args:
            checkpoint: the model.
            engine: that asks it.
            metrics: count what is done.
            most: orders of an hour, and couriers.
            seconds: that a comparison may take.
        """
        self._checkpoint, self._engine, self._metrics = checkpoint, engine, metrics
        self._most, self._seconds = most, seconds
        self._running = 0

    async def answer(self, receive: Receive, document: Any, language: str) -> dict[str, Any] | None:
        """Compare dispatchers over an hour; None if the client goes away.

        Args:
            receive: of the request.
            document: what `longcat dispatch` reads.
            language: in which the model is asked.

        Returns:
            The figures, see `longcat.evaluation.local_services.comparison.Comparison.to_json`.

        Raises:
            ApiError: the orders are impossible or too many, there is no room, or the comparison takes too long.
        """
        if self._running >= AT_ONCE:
            raise ApiError(
                429,
                f"{self._running} hours are being dispatched, try again later",
                code="queue_full",
                headers={"Retry-After": "1"},
            )
        self._running += 1
        began, found = time.perf_counter(), None
        try:
            with self._engine.place() as over:
                scene = await asyncio.to_thread(self._read, document)
                found = await unless_gone(receive, _unless_over(over, self._compare(scene, language)))
                if found is None:
                    self._metrics.given_up.inc()
        finally:
            self._running -= 1
        self._metrics.duration.observe(time.perf_counter() - began)
        return found

    def _read(self, document: Any) -> Scene:
        try:
            scene = hour_from_json(document, _WHERE)
        except DataError as error:
            raise ApiError(400, str(error)) from None
        for name, found in (("orders", scene.orders), ("couriers", scene.couriers)):
            if len(found) > self._most:
                raise ApiError(
                    400,
                    f"{_WHERE}: {name}: there are {len(found)}, and at most {self._most} are dispatched at a time",
                    code="too_many",
                    field=name,
                )
        return scene

    async def _compare(self, scene: Scene, language: str) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            *apart.command(os.getpid()), stdin=PIPE, stdout=PIPE, limit=_LONGEST_LINE
        )
        decided = 0
        try:
            async with asyncio.timeout(self._seconds):
                await _tell(process, apart.Task(scene.to_json(), language, _SEARCH * self._seconds))
                while isinstance(said := await _hear(process), apart.Question):
                    await _tell(process, await self._ask(said))
                    decided += 1
                return said
        except TimeoutError:
            raise ApiError(
                400,
                f"the comparison did not end within {self._seconds:g} s, in which the model decided {decided} of "
                f"{len(scene.orders)} orders: send fewer orders or couriers",
                code="time_limit",
            ) from None
        except (ConnectionError, EOFError):
            code = await process.wait()
            raise ApiError(500, f"the comparison ended without a result, with code {code}", code="failed") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ask(self, asked: apart.Question) -> Preference:
        requests = await asyncio.to_thread(continuations, self._checkpoint, asked.question, asked.answers)
        self._metrics.prompt_tokens.inc(len(requests[0].context))
        self._metrics.decisions.inc()
        return preference(await self._engine.likelihoods(requests))


async def _tell(process: Process, message: apart.Task | Preference) -> None:
    assert process.stdin is not None
    process.stdin.write(apart.line_of(message))
    await process.stdin.drain()


async def _hear(process: Process) -> apart.Question | dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return apart.read_line(line)


async def _unless_over(over: asyncio.Future[None], work: Coroutine[Any, Any, T]) -> T:
    """Do work until it is done, or something else fails."""
    working = asyncio.ensure_future(work)
    try:
        either: set[asyncio.Future[Any]] = {working, over}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            over.result()
        return await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
