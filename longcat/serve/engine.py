"""The one thread that asks the model: requests of all clients join and leave between two tokens of the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from longcat.errors import ConfigError
from longcat.inference.decoder import Decoder, Event
from longcat.inference.opening import OpenCheckpoint
from longcat.inference.requests import Continuation, Likelihood, Prompt, Reason
from longcat.inference.runner import Runner
from longcat.serve.failure import ApiError, stopping, too_busy

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
"""Seconds after which a thread without work looks again."""
_END_S = 30.0
"""Seconds that a last step may take."""
FAILING = 3
"""Texts in a row that the model fails on until the server calls itself ill."""


@dataclass(frozen=True)
class Piece:
    """What has become of one text of a request."""

    index: int
    """Number of the text in the request."""
    text: str = ""
    """What follows."""
    tokens: int = 0
    """Tokens that were made for it."""
    finished: Reason | None = None
    """Why the text ended; None where it goes on."""
    failure: ApiError | None = None
    """Why it cannot go on."""


@dataclass(eq=False)
class Job:
    """The texts of one request."""

    prompts: Sequence[Prompt]
    unfinished: int
    _loop: asyncio.AbstractEventLoop
    _pieces: asyncio.Queue[Piece] = field(default_factory=asyncio.Queue)
    left: bool = False
    """Whether nobody waits for it any more."""

    async def pieces(self, every_s: float) -> AsyncIterator[Piece | None]:
        """Yield what becomes of the texts, until all are finished or one fails; None where nothing comes for some seconds."""
        waited_for = len(self.prompts)
        while waited_for:
            try:
                async with asyncio.timeout(every_s):
                    piece = await self._pieces.get()
            except TimeoutError:
                yield None
                continue
            yield piece
            if piece.failure is not None:
                return
            waited_for -= piece.finished is not None


def without_tokens(prompts: Sequence[Prompt]) -> Job:
    """Return a request that wants no tokens, and is finished; to be called in the event loop that waits for it."""
    job = Job(prompts, 0, asyncio.get_running_loop())
    _put([(job, Piece(index, finished="length")) for index in range(len(prompts))])
    return job


Answer = asyncio.Future[list[Likelihood]]


class Engine:
    """Makes texts for any number of clients at a time. Methods may be called from any thread."""

    def __init__(
        self,
        checkpoint: OpenCheckpoint,
        *,
        texts: int = 32,
        cached_tokens: int = 65_536,
        queue: int = 64,
        window: int | None = None,
    ) -> None:
        """Make an engine that stands still until `start`.

        Args:
            checkpoint: the model.
            texts: most texts that are made at a time.
            cached_tokens: see `Decoder`.
            queue: most texts that wait besides.
            window: most tokens that likelihoods are computed over; as many as the model reads if None.
        """
        self._checkpoint, self._texts, self._cached_tokens = checkpoint, texts, cached_tokens
        self.most = texts + queue
        """Texts that are accepted at a time."""
        self._decoder = self._new_decoder()
        self._runner = Runner(checkpoint, batch_sequences=texts, window=window)
        self._questions: deque[tuple[Sequence[Continuation], Answer]] = deque()
        self._places: set[asyncio.Future[None]] = set()
        self._rows: dict[int, tuple[Job, int]] = {}
        """Request and number of each text, by its handle; of the thread alone, like the decoder."""
        self._changed = threading.Condition()
        self._joining: list[Job] = []
        self._leaving: list[Job] = []
        self._unfinished = 0
        self._failures = 0
        self._accepts, self._ended = True, False
        self._thread = threading.Thread(target=self._run, name="longcat-serve", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def unfinished(self) -> int:
        """Return the number of texts that are being made or wait."""
        return self._unfinished

    @property
    def running(self) -> int:
        """Return the number of texts that are being made."""
        return self._decoder.active

    @property
    def accepts(self) -> bool:
        """Return whether new requests are taken."""
        return self._accepts

    @property
    def ill(self) -> bool:
        """Return whether the model has failed on the last texts, or the thread has ended."""
        return self._failures >= FAILING or not (self._ended or self._thread.is_alive())

    def allow(self, texts: int) -> None:
        """Say whether a request of so many texts would be taken now.

        Raises:
            ApiError: there is no room, or the server is stopping.
        """
        if not self._accepts:
            raise stopping()
        if texts > self.most:
            raise ApiError(400, f"{texts} texts in one request, at most {self.most} are made", code="too_many")
        if self._unfinished + texts > self.most:
            raise too_busy(self._unfinished)

    def submit(self, prompts: Sequence[Prompt]) -> Job:
        """Take the texts of a request; to be called in the event loop that waits for them.

        Raises:
            ApiError: see `allow`.
        """
        with self._changed:
            self.allow(len(prompts))
            job = Job(prompts, len(prompts), asyncio.get_running_loop())
            self._unfinished += len(prompts)
            self._joining.append(job)
            self._changed.notify()
        return job

    def leave(self, job: Job) -> None:
        """Give up the texts of a request that are not finished."""
        with self._changed:
            if not job.left and job.unfinished:
                job.left = True
                self._unfinished -= job.unfinished
                job.unfinished = 0
                self._leaving.append(job)
                self._changed.notify()

    @contextlib.contextmanager
    def place(self) -> Iterator[asyncio.Future[None]]:
        """Take the place of one text for work that asks for likelihoods again and again; the server does not end before it.

        To be called in an event loop.

        Yields:
            What fails when the engine ends: nobody has to wait for the work any more.

        Raises:
            ApiError: see `allow`.
        """
        over = asyncio.get_running_loop().create_future()
        with self._changed:
            self.allow(1)
            self._unfinished += 1
            self._places.add(over)
        try:
            yield over
        finally:
            with self._changed:
                self._unfinished -= 1
                self._places.discard(over)
            if not over.cancel():
                over.exception()  # it was heard of, or does not matter any more

    async def likelihoods(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        """Compute log-likelihoods between two tokens of the texts, see `Runner.likelihoods`.

        Raises:
            ApiError: a continuation is longer than the window, the model fails, or the engine ends.
        """
        answer: Answer = asyncio.get_running_loop().create_future()
        with self._changed:
            if self._ended:
                raise stopping()
            self._questions.append((requests, answer))
            self._changed.notify()
        return await answer

    def refuse(self) -> None:
        """Take no new requests; those that are there go on."""
        with self._changed:
            self._accepts = False

    def end(self) -> None:
        """End after the step that is being computed; what is unfinished is answered by an error."""
        with self._changed:
            self._accepts, self._ended = False, True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_END_S)

    def _new_decoder(self) -> Decoder:
        return Decoder(self._checkpoint, rows=self._texts, tokens=self._cached_tokens, survives=True)

    def _run(self) -> None:
        while not self._ended:
            with self._changed:
                if not (self._joining or self._leaving or self._rows or self._questions or self._ended):
                    self._changed.wait(_LOOK_S)
                joining, self._joining = self._joining, []
                leaving, self._leaving = self._leaving, []
            try:
                self._turn(joining, leaving)
            except Exception as error:  # of ours, as the decoder survives the model's
                _log.exception("all texts are given up")
                self._fail([*joining, *self._jobs()], ApiError(500, f"{type(error).__name__} while texts were made"))
                self._rows.clear()
                self._decoder = self._new_decoder()
            self._answer_one()  # of those who ask again and again, so that texts go on between two questions
        with self._changed:
            joining, self._joining = self._joining, []
            waiting: list[asyncio.Future[Any]] = [*self._places, *(answer for _, answer in self._questions)]
            self._questions.clear()
        self._fail([*joining, *self._jobs()], stopping())
        for future in waiting:
            _settle(future, stopping())

    def _answer_one(self) -> None:
        with self._changed:
            if not self._questions:
                return
            requests, answer = self._questions.popleft()
        if answer.cancelled():  # nobody waits for it
            return
        try:
            found = self._runner.likelihoods(requests)
        except ConfigError as error:
            _settle(answer, ApiError(400, str(error)))
            return
        except Exception as error:
            _log.warning("%d likelihoods failed", len(requests), exc_info=error)
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            self._failures += 1
            _settle(answer, ApiError(500, f"the model failed: {reason}", code="model_failed"))
            return
        self._failures = 0
        _settle(answer, found)

    def _jobs(self) -> list[Job]:
        return [job for job, _ in self._rows.values()]

    def _turn(self, joining: list[Job], leaving: list[Job]) -> None:
        gone = set(leaving)
        for handle in [handle for handle, (job, _) in self._rows.items() if job in gone]:
            self._decoder.cancel(handle)
            del self._rows[handle]
        for job in joining:
            for index, prompt in enumerate(job.prompts if not job.left else ()):
                self._rows[self._decoder.add(prompt)] = job, index
        if self._rows:
            self._deliver([self._piece(event) for event in self._decoder.step()])

    def _piece(self, event: Event) -> tuple[Job, Piece]:
        job, index = self._rows[event.handle]
        failure = None
        if event.error is not None:
            failure = ApiError(500, f"the model failed: {event.error}", code="model_failed")
        if failure or event.finished:
            del self._rows[event.handle]
            self._failures = self._failures + 1 if failure else 0
        return job, Piece(index, event.text, event.token is not None, event.finished, failure)

    def _fail(self, jobs: Sequence[Job], failure: ApiError) -> None:
        self._deliver([(job, Piece(0, failure=failure)) for job in dict.fromkeys(jobs)])

    def _deliver(self, pieces: Sequence[tuple[Job, Piece]]) -> None:
        """Hand pieces over to the event loops that wait for them."""
        loops = defaultdict[asyncio.AbstractEventLoop, list[tuple[Job, Piece]]](list)
        with self._changed:
            for job, piece in pieces:
                ended = job.unfinished if piece.failure else min(job.unfinished, piece.finished is not None)
                job.unfinished -= ended
                self._unfinished -= ended
                if piece.failure and ended > 1:  # the other texts of the request are of no use
                    self._leaving.append(job)
                loops[job._loop].append((job, piece))
        for loop, its in loops.items():
            with contextlib.suppress(RuntimeError):  # a loop that is closed: nobody waits
                loop.call_soon_threadsafe(_put, its)


def _put(pieces: Sequence[tuple[Job, Piece]]) -> None:
    for job, piece in pieces:
        job._pieces.put_nowait(piece)


def _settle(future: asyncio.Future[Any], outcome: object) -> None:
    """Give a future of any event loop its result or its exception."""

    def settle() -> None:
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    with contextlib.suppress(RuntimeError):  # a loop that is closed: nobody waits
        future.get_loop().call_soon_threadsafe(settle)
