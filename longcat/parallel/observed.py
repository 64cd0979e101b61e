"""Sees every collective that this process begins, whoever begins it: longcat, FSDP, pipeline schedules.

Torch's public functions are replaced while collectives are observed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import wraps
from typing import Any, Protocol, cast

import torch.distributed as dist

COLLECTIVES = {
    "all_reduce": "all_reduce",
    "all_gather_into_tensor": "all_gather",
    "all_gather_single": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "reduce_scatter_single": "reduce_scatter",
    "all_to_all_single": "all_to_all",
    "broadcast": "broadcast",
}
"""Torch's functions that send tensors within a group, and what they are called here."""
Function = Callable[..., Any]
Region = Callable[[], AbstractContextManager[Any]]
"""Makes a context for the time in which this process waits for a collective."""


class Observer(Protocol):
    """Makes the functions that stand in for torch's; they keep what they stand for as `functools.wraps` does."""

    def collective(self, original: Function, name: str) -> Function:
        """Return what is called instead of a function that begins a collective."""

    def transfer(self, original: Function) -> Function:
        """Return what is called instead of `isend` or `irecv`."""

    def transfers(self, original: Function) -> Function:
        """Return what is called instead of `batch_isend_irecv`."""


@contextlib.contextmanager
def observed(observer: Observer, names: Mapping[str, str] = COLLECTIVES) -> Iterator[None]:
    """Let an observer stand between this process and torch's collectives while the context is open."""
    there = {function: original for function in names if (original := getattr(dist, function, None))}
    one_by_one = {of: observer.transfer(of) for of in (dist.isend, dist.irecv)}
    originals = {stand_in: of for of, stand_in in one_by_one.items()}
    stand_ins: dict[str, Any] = {
        **{function: observer.collective(of, names[function]) for function, of in there.items()},
        "isend": one_by_one[dist.isend],
        "irecv": one_by_one[dist.irecv],
        "batch_isend_irecv": _batch(observer.transfers(dist.batch_isend_irecv), originals),
        "P2POp": _operations(originals),
    }
    with contextlib.ExitStack() as replaced:
        for attribute, stand_in in stand_ins.items():
            replaced.callback(setattr, dist, attribute, getattr(dist, attribute))
            setattr(dist, attribute, stand_in)
        yield


def _batch(function: Function, originals: Mapping[Any, Any]) -> Function:
    """Let a batch begin with the functions that torch knows."""

    @wraps(function)
    def begun(operations: list[dist.P2POp]) -> Any:
        for of in operations:
            of.op = originals.get(of.op, of.op)
        return function(operations)

    return begun


def _operations(originals: Mapping[Any, Any]) -> type[dist.P2POp]:
    """Make a class of operations for batches that also takes the functions that stand in.

    Schedules call the function of an operation themselves where all of a batch send, or all receive. So it stays
    the one that stands in, except while torch checks it.
    """

    class Operation(dist.P2POp):
        def __new__(cls, op: Function, *given: Any, **named: Any) -> Operation:
            return cast(Operation, super().__new__(cls, originals.get(op, op), *given, **named))

    return Operation


def begin(call: Callable[[], Any], region: Region, beside: bool) -> Any:
    """Begin a collective; what it returns to be waited for opens the region when it is.

    Args:
        call: begins it.
        region: see `Region`.
        beside: whether this process goes on meanwhile; else it waits here.
    """
    if beside:
        works = call()
    else:
        with region():
            works = call()
    if isinstance(works, list):
        return [_Waited(work, region) for work in works]
    return None if works is None else _Waited(works, region)


class _Waited(dist.Work):
    """A collective in work, whose waiting is a region."""

    def __init__(self, work: dist.Work, region: Region) -> None:
        super().__init__()
        self._inner, self._region = work, region

    def wait(self, timeout: timedelta = timedelta(0)) -> bool:
        with self._region():
            return self._inner.wait(timeout) if timeout else self._inner.wait()

    def is_completed(self) -> bool:
        return self._inner.is_completed()

    def is_success(self) -> bool:
        return self._inner.is_success()

    def synchronize(self) -> None:
        self._inner.synchronize()

    def get_future(self) -> Any:
        return self._inner.get_future()

    def result(self) -> Any:
        return self._inner.result()
