"""Parallel map: a `Mapper` calls a function on many items and yields the results in their order.

Functions and items have to be picklable, and all processes see the same files; so the same functions run in this
process, in others of this machine, and on a cluster (`tasks.cluster`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, Protocol, TypeVar

from longcat.errors import LongcatError
from longcat.processes.child import die_with_parent

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Mapper(Protocol):
    """Lazy parallel map: consumes items on demand, yields results in input order."""

    def __call__(self, function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
        """Call a function on each item; yields the results in the order of the items."""
        ...


@contextmanager
def processes(count: int = 0) -> Iterator[Mapper]:
    """Provide a mapper over processes of this machine, one per core if `count` is 0; a single item stays in this process.

    The mapper raises `LongcatError` when a process is killed, and whatever the function raises.
    """
    count = count or len(os.sched_getaffinity(0))
    pool: ProcessPoolExecutor | None = None

    def mapper(function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
        nonlocal pool
        items = iter(items)
        first = list(islice(items, 2))
        if count == 1 or len(first) < 2:
            yield from map(function, chain(first, items))
            return
        if pool is None:
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(count, context, _follow_parent, (os.getpid(),))
        submit = pool.submit
        try:
            yield from in_order(lambda item: submit(function, item), chain(first, items), 2 * count)
        except BrokenProcessPool:
            raise LongcatError(
                "a worker process was killed, perhaps because memory was full; lower corpus.workers or "
                "corpus.block_bytes, and run again: finished blocks are kept"
            ) from None

    try:
        yield mapper
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def in_order(submit: Callable[[_In], Any], items: Iterable[_In], pending: int) -> Iterator[_Out]:
    """Yield the results of submitted items in their order, with at most `pending` submitted at a time."""
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(submit(item))
        if len(waiting) >= pending:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _follow_parent(parent: int) -> None:
    """Die with the parent process, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
