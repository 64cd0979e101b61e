"""Parallel map: a `Mapper` calls a function on many items and yields the results in their order.

Functions and items have to be picklable, and all processes see the same files; so the same functions run in this
process, in others of this machine, and on a cluster (`longcat.tasks.cluster`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import Any, Protocol, TypeVar

from longcat.corpus.blocks import place_of
from longcat.processes.pool import Pool

_In = TypeVar("_In")
_Out = TypeVar("_Out")
HANG_TIMEOUT_S = 60.0
"""Default of `corpus.hang_timeout_s`."""
_ADVICE = (
    "if memory was full, lower corpus.workers or corpus.block_bytes, else take out what is named; and run again: finished "
    "blocks are kept"
)


class Mapper(Protocol):
    """Lazy parallel map: consumes items on demand, yields results in input order.

    Once it is closed, or has raised, nothing of it runs any more.
    """

    def __call__(self, function: Callable[[_In], _Out], items: Iterable[_In]) -> Generator[_Out, None, None]:
        """Call a function on each item; yields the results in the order of the items."""
        ...


@contextmanager
def processes(count: int = 0, hang_timeout_s: float = HANG_TIMEOUT_S) -> Iterator[Mapper]:
    """Provide a mapper over processes of this machine, one per core if `count` is 0; a single item stays in this process.

    The work of a process that is killed or stands still (`longcat.processes.pool`) is done again by another one, with a warning.
    The mapper raises `WorkLostError` when that is lost, too, and whatever the function raises.

    Args:
        count: of processes.
        hang_timeout_s: seconds after which a process that was stopped by a signal is ended; 0 never.
    """
    count = count or len(os.sched_getaffinity(0))
    pool: Pool | None = None

    def mapper(function: Callable[[_In], _Out], items: Iterable[_In]) -> Generator[_Out, None, None]:
        nonlocal pool
        items = iter(items)
        first = list(islice(items, 2))
        if count == 1 or len(first) < 2:
            yield from map(function, chain(first, items))
            return
        if pool is None:
            pool = Pool(count, hang_timeout_s, place_of, _ADVICE)
        submit = pool.submit
        yield from in_order(lambda item: submit(function, item), chain(first, items), 2 * count)

    try:
        yield mapper
    finally:
        if pool is not None:
            pool.close()


def in_order(submit: Callable[[_In], Any], items: Iterable[_In], pending: int) -> Generator[_Out, None, None]:
    """Yield the results of submitted items in their order, with at most `pending` submitted at a time.

    Whoever stops asking gets control back when what has begun has ended: it could still write.
    """
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(submit(item))
            if len(waiting) >= pending:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for one in waiting:
            if not (isinstance(one, Future) and one.cancel()):
                with suppress(Exception):
                    one.result()
