"""Sees every collective that this process begins, whoever begins it: longcat, FSDP, pipeline schedules.

Torch's public functions are replaced while collectives are observed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Protocol

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
SENDS = "batch_isend_irecv"
Region = Callable[[], AbstractContextManager[Any]]
"""Makes a context for the time in which this process waits for a collective."""


class Observer(Protocol):
    """Makes the functions that stand in for torch's."""

    def collective(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return what is called instead of a function that begins a collective."""

    def sends(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return what is called instead of `batch_isend_irecv`."""


@contextlib.contextmanager
def observed(observer: Observer, names: Mapping[str, str] = COLLECTIVES) -> Iterator[None]:
    """Let an observer stand between this process and torch's collectives while the context is open."""
    with contextlib.ExitStack() as replaced:

        def replace(function: str, stand_in: Callable[..., Any], original: Callable[..., Any]) -> None:
            replaced.callback(setattr, dist, function, original)
            setattr(dist, function, stand_in)

        for function, name in names.items():
            if original := getattr(dist, function, None):
                replace(function, observer.collective(original, name), original)
        replace(SENDS, observer.sends(dist.batch_isend_irecv), dist.batch_isend_irecv)
        yield


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
