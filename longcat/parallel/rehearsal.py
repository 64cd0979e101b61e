"""A process group of one process that stands for any number of them: nothing is sent, and what would be is written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore  # type: ignore[attr-defined]

BACKEND = "rehearsal"


class SilentGroup(dist.ProcessGroup):
    """Takes part in every collective alone.

    What a process would receive is left as it is. A sum of real tensors, which a mesh is tried out with, is as if every
    process had the same number.

    Attributes:
        sent: bytes by collective, and `calls` of each, as a process of the group has them. Bytes are those of what a
            collective leaves in a process if it gathers, and of what it takes otherwise, this process' own part included.
    """

    def __init__(self, rank: int, size: int, name: str) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]
        self._name = name
        # made where nothing is fake
        self._agreed = {of: torch.ones(1, dtype=of) for of in (torch.int32, torch.int64)}
        self.sent: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    @property
    def group_name(self) -> str:  # type: ignore[override]
        """The name that torch finds it by."""
        return self._name

    def getBackendName(self) -> str:  # noqa: N802
        """Name the backend."""
        return BACKEND

    def allreduce(self, tensors: Any, *_: Any, **__: Any) -> dist.Work:  # type: ignore[override]
        """Sum up."""
        for tensor in tensors:
            if type(tensor) is Tensor:
                tensor.mul_(self.size())
        return self._note("all-reduce", *tensors)

    def broadcast(self, tensors: Any, *_: Any, **__: Any) -> dist.Work:  # type: ignore[override]
        """Send one process' tensors to all."""
        return self._note("broadcast", *tensors)

    def allgather(self, outputs: Any, *_: Any, **__: Any) -> dist.Work:  # type: ignore[override]
        """Gather, a tensor from each process."""
        return self._note("all-gather", *(tensor for part in outputs for tensor in part))

    def all_gather_single(self, output: Tensor, *_: Any, **__: Any) -> dist.Work:
        """Gather into one tensor."""
        return self._note("all-gather", output)

    def all_gather_single_coalesced(self, outputs: Any, *_: Any, **__: Any) -> dist.Work:  # type: ignore[override]
        """Gather into a tensor for each one."""
        return self._note("all-gather", *outputs)

    def reduce_scatter_single(self, _: Tensor, given: Tensor, *__: Any, **___: Any) -> dist.Work:  # type: ignore[override]
        """Sum up, and keep a part."""
        return self._note("reduce-scatter", given)

    def reduce_scatter_single_coalesced(self, _: Any, given: Any, *__: Any, **___: Any) -> dist.Work:  # type: ignore[override]
        """Sum up, and keep a part of each."""
        return self._note("reduce-scatter", *given)

    def all_to_all_single(self, _: Tensor, given: Tensor, *__: Any, **___: Any) -> dist.Work:  # type: ignore[override]
        """Send a part of a tensor to each process."""
        return self._note("all-to-all", given)

    def send(self, tensors: Any, *_: Any, **__: Any) -> dist.Work:
        """Send to one process."""
        return self._note("send", *tensors)

    def recv(self, tensors: Any, *_: Any, **__: Any) -> dist.Work:
        """Receive from one process, which counts there; a single whole number is an agreement: 1."""
        for tensor in tensors:
            if tensor.numel() == 1 and not tensor.is_floating_point():
                if type(tensor) is Tensor:
                    tensor.fill_(1)
                else:
                    tensor.constant = self._agreed[tensor.dtype]
        return _Done()

    def barrier(self, *_: Any, **__: Any) -> dist.Work:
        """Wait for nobody."""
        return _Done()

    def _note(self, collective: str, *tensors: Tensor) -> dist.Work:
        self.sent[collective] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.calls[collective] += 1
        return _Done()


class _Done(dist.Work):
    def wait(self, timeout: timedelta | None = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def get_future(self) -> torch.futures.Future[None]:
        future: torch.futures.Future[None] = torch.futures.Future()
        future.set_result(None)
        return future


@contextmanager
def rehearsal(rank: int, processes: int) -> Iterator[None]:
    """Be one rank of a world of so many processes; no other process is needed, and no network."""

    def create(options: Any, _: Any) -> dist.ProcessGroup:
        return SilentGroup(options.group_rank, options.group_size, options.group_id)

    if BACKEND not in dist.Backend.backend_list:
        dist.Backend.register_backend(BACKEND, create, extended_api=True, devices=["cpu"])
    dist.init_process_group(BACKEND, store=HashStore(), rank=rank, world_size=processes)
    try:
        yield
    finally:
        dist.destroy_process_group()


def silent(group: dist.ProcessGroup) -> SilentGroup:
    """Return a group of a rehearsal by its type."""
    return cast(SilentGroup, group)
