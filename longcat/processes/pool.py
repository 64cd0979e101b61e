"""A pool of processes of this machine that are watched: one that stands still or dies is replaced, and its work is done again.

Each process belongs to a thread, which sends it one item after another and waits for the answers. Another thread watches:
a process with work to do that a signal has stopped, or that has used no processor time for `PATIENCE` times as long, is
killed, so that no wait for it lasts.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import psutil

from longcat.errors import LongcatError
from longcat.processes.child import die_with_parent, without_script
from longcat.processes.memory_kills import MemoryKills
from longcat.processes.orders import signal_name

PATIENCE = 10
"""Times the limit of a stopped process that one may go without processor time, as one does that waits for a disk."""
_PLACE_BYTES = 4096
_END_S = 10.0
_place: Any = None
"""Memory that the parent of this process reads, if it is one of a pool."""


class WorkLostError(LongcatError):
    """An item whose processes were lost twice; the message says which, where and how."""


class WorkNotFoundError(LongcatError):
    """A function or an item that another process cannot load; the message names what it lacks."""


class _RemoteError(Exception):
    """Where an exception was raised in another process, as text."""


def note_place(place: str) -> None:
    """Leave word, in a process of a pool, of what it is at; the pool names it if the process is lost."""
    if _place is not None:
        _place.value = place.encode(errors="replace")[: _PLACE_BYTES - 1]


@dataclass
class _Member:
    """A process of a pool."""

    process: Any
    connection: Connection
    place: Any
    kills: MemoryKills
    """When it was started."""
    busy: bool = False
    stopped_s: float = 0.0
    idle_s: float = 0.0
    """Time with work to do and without processor time."""
    processor_s: float = -1.0
    ended: str = field(default="")
    """Why the pool has ended it."""

    def call(self, function: Callable[[Any], Any], item: Any) -> Any:
        """Have an item done.

        Raises:
            EOFError: the process is lost.
        """
        self.stopped_s = self.idle_s = 0.0
        self.place.value, self.busy = b"", True
        try:
            self.connection.send((function, item))
            while not self.connection.poll(0.5):
                if self.ended:  # the kernel may not be able to end it
                    raise EOFError
            result, error, trace = self.connection.recv()
        except ConnectionError:
            raise EOFError from None
        finally:
            self.busy = False
        if error is not None:
            raise error from _RemoteError(f"\n{trace}")
        return result

    def look(self, passed_s: float, limit_s: float) -> None:
        """See whether it stands still, and end it if it has for too long."""
        try:
            process = psutil.Process(self.process.pid)
            status, times = process.status(), process.cpu_times()
        except psutil.Error:
            return
        used = times.user + times.system + times.children_user + times.children_system
        self.stopped_s = self.stopped_s + passed_s if status == psutil.STATUS_STOPPED else 0.0
        self.idle_s = self.idle_s + passed_s if used == self.processor_s else 0.0
        self.processor_s = used
        if self.stopped_s >= limit_s:
            self.ended = f"was stopped by a signal (SIGSTOP) {self.stopped_s:.0f} s ago"
        elif self.idle_s >= PATIENCE * limit_s:
            self.ended = f"has used no processor time for {self.idle_s:.0f} s"
        if self.ended:
            self.process.kill()

    def end(self) -> str:
        """Make sure that it has ended; returns how it did."""
        self.process.join(1)
        self.process.kill()
        self.process.join(_END_S)
        self.connection.close()
        code = self.process.exitcode
        if self.ended or code is None:
            return self.ended or "cannot be ended"
        if code >= 0:
            return f"ended with exit code {code}"
        return f"was killed by {signal_name(-code)}{self.kills.why(code)}"

    def close(self) -> None:
        """End it, once it has nothing to do."""
        self.connection.close()
        self.process.join(_END_S)
        if self.process.is_alive():  # stopped
            self.process.kill()
            self.process.join(_END_S)


class Pool:
    """Calls functions in processes, which are started when they are needed."""

    def __init__(self, count: int, hang_timeout_s: float, where: Callable[[str], str], advice: str) -> None:
        """Open a pool.

        Args:
            count: number of processes.
            hang_timeout_s: seconds after which a process that was stopped is ended; 0 never.
            where: turns what `note_place` was given into words.
            advice: end of the message when an item's processes are lost twice.
        """
        self._limit_s, self._where, self._advice = hang_timeout_s, where, advice
        self._tasks: queue.Queue[tuple[Future[Any], Callable[[Any], Any], Any] | None] = queue.Queue()
        self._members: dict[int, _Member] = {}
        self._closing = threading.Event()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._serve, args=(n,), daemon=True) for n in range(count)]
        if hang_timeout_s:
            threading.Thread(target=self._watch, daemon=True).start()
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[Any], Any], item: Any) -> Future[Any]:
        """Have a function called with an item; function, item and result have to be picklable.

        The future raises what the function raises, or `WorkLostError`.
        """
        future: Future[Any] = Future()
        self._tasks.put((future, function, item))
        return future

    def close(self) -> None:
        """Forget what has not begun, wait for what has, and end all processes."""
        self._closing.set()
        while not self._tasks.empty():
            if (task := self._tasks.get()) is not None:
                task[0].cancel()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        self._ended.set()

    def _serve(self, number: int) -> None:
        while (task := self._tasks.get()) is not None:
            future, function, item = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._do(number, function, item))
            except BaseException as error:  # whatever it is belongs to whoever waits
                future.set_exception(error)
        if number in self._members:
            self._members.pop(number).close()

    def _do(self, number: int, function: Callable[[Any], Any], item: Any) -> Any:
        lost = ""
        for last in (False, True):
            member = self._members.get(number) or self._members.setdefault(number, _start())
            try:
                return member.call(function, item)
            except EOFError:
                del self._members[number]
            place = member.place.value.decode(errors="replace")
            at = f", at {self._where(place)}" if place else ""
            lost = f"worker process {member.process.pid} {member.end()} in {str(item)[:200]}{at}"
            if self._closing.is_set():
                break
            if not last:
                warnings.warn(f"{lost}; another one does this part again", stacklevel=2)
        raise WorkLostError(f"{lost}, as another one had been lost there before; {self._advice}")

    def _watch(self) -> None:
        pause_s = min(1.0, self._limit_s / 4)
        looked = time.monotonic()
        while not self._ended.wait(pause_s):
            now = time.monotonic()
            for member in list(self._members.values()):
                if member.busy:
                    # no more than that if this process itself was stopped meanwhile
                    member.look(min(now - looked, 4 * pause_s), self._limit_s)
            looked = now


def _start() -> _Member:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    place = context.RawArray("c", _PLACE_BYTES)
    process = context.Process(target=_work, args=(there, place, os.getpid()))
    kills = MemoryKills.now()
    with without_script():
        process.start()
    there.close()  # so that its end is heard of
    return _Member(process, here, place, kills)


def _work(connection: Connection, place: Any, parent: int) -> None:
    """Do what the parent sends, in a process that dies with it and leaves Ctrl-C to it."""
    global _place
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL, parent)
    _place = place
    while True:
        result: Any = None
        failure: BaseException | None = None
        trace = ""
        try:
            function, item = connection.recv()
        except EOFError:
            return
        except Exception as error:  # of a module that cannot be imported here, for example
            failure, trace = _not_found(error), traceback.format_exc()
        else:
            try:
                result = function(item)
            except BaseException as error:
                failure, trace = _sendable(error), traceback.format_exc()
        try:
            connection.send((result, failure, trace))
        except ConnectionError:
            return
        except Exception as error:  # a result that cannot be pickled
            connection.send((None, RuntimeError(f"{type(error).__name__}: {error}"), trace or traceback.format_exc()))


def _not_found(error: Exception) -> WorkNotFoundError:
    text = f"a worker process cannot load what it is to do: {type(error).__name__}: {error}"
    if "__main__" in str(error):
        text += "; what a script or a notebook defines is not there in other processes: put it into a module of its own"
    return WorkNotFoundError(text)


def _sendable(error: BaseException) -> BaseException:
    """Return an exception, or one that says the same if it would not arrive as it is."""
    try:
        copy.copy(error)  # is made anew in the same way as where it arrives
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
