"""Data parallelism over devices of two kinds: each kind sums with its own backend, and gloo carries the sums between them.

No backend spans two makers' devices. So a sum takes three steps: inside each kind, on its devices; between the first
processes of the kinds, in their hosts' memory; and back. Every process has the whole model, and a part of each batch as
large as its device is fast, so that all are ready together.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import accumulate, pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from longcat.accelerator import BACKENDS, HOST_BACKEND, Kind


def split_rows(rows: int, speeds: Sequence[float]) -> list[range]:
    """Divide the rows of a batch among processes in proportion to their speeds, every process at least one.

    Whole rows go to the process that is furthest below its share, so the slowest step is as short as whole rows allow.

    Args:
        rows: of the batch, at least one for each process.
        speeds: of the processes, in any unit, above 0.

    Raises:
        ValueError: there are fewer rows than processes, or a speed is not above 0.
    """
    if rows < len(speeds) or not speeds or min(speeds) <= 0:
        raise ValueError(f"{rows} rows cannot be divided among processes of the speeds {list(speeds)}")
    counts = [1] * len(speeds)
    for _ in range(rows - len(speeds)):
        first = min(range(len(speeds)), key=lambda one: ((counts[one] + 1) / speeds[one], one))
        counts[first] += 1
    ends = [0, *accumulate(counts)]
    return [range(begin, end) for begin, end in pairwise(ends)]


class MixedGroups:
    """This process' groups among processes that compute on devices of different kinds.

    Attributes:
        own: the processes of this kind.
        first: the first process of each kind, or None in all others.
    """

    def __init__(self, kinds: Sequence[Kind], device: torch.device, timeout: timedelta) -> None:
        """Open the groups, after `torch.distributed` has begun with the host's backend. Collective.

        Args:
            kinds: kind of the device of every process, by rank.
            device: of this process.
            timeout: limit of every exchange.
        """
        rank = dist.get_rank()
        places = {kind: [other for other, its in enumerate(kinds) if its == kind] for kind in dict.fromkeys(kinds)}
        ends = [ranks[0] for ranks in places.values()]
        self.device = device
        self._source = places[kinds[rank]][0]
        # every process opens only the groups that it is in: another kind's backend may not exist on its machine
        self.own = dist.new_group(
            places[kinds[rank]], timeout=timeout, backend=BACKENDS[kinds[rank]], use_local_synchronization=True
        )
        self.first = (
            dist.new_group(ends, timeout=timeout, backend=HOST_BACKEND, use_local_synchronization=True)
            if rank in ends
            else None
        )

    @torch.no_grad()
    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Add up tensors over all processes, the same ones in each; they end with the same bits everywhere. Collective."""
        message = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(message, group=self.own)
        if self.first is not None:
            host = message.cpu()
            dist.all_reduce(host, group=self.first)
            message.copy_(host)
        dist.broadcast(message, src=self._source, group=self.own)
        for tensor, summed in zip(tensors, message.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))
