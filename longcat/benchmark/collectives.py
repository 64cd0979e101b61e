"""Bandwidth of collectives between training processes, as nccl-tests defines it (its doc/PERFORMANCE.md).

algorithm bandwidth   size / time
bus bandwidth         algorithm bandwidth times the traffic of the slowest link per byte of data: 2 (n-1)/n for
                      all-reduce, (n-1)/n for all-gather, reduce-scatter and all-to-all. It does not depend on the
                      number of ranks n and can be compared with the bandwidth of the link.

The size is that of the whole buffer which a rank reduces, gathers, scatters or exchanges.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from longcat.accelerator import Accelerator

INSIDE, BETWEEN = "inside a node", "between nodes"
_WARM_UP = 2


@dataclass(frozen=True)
class Collective:
    """Measured time of one collective at one size."""

    name: str
    """all_reduce, all_gather, reduce_scatter or all_to_all."""
    bytes: int
    """Size of the whole buffer."""
    ranks: int
    seconds: float
    """Median of the repeats on the slowest rank."""
    scope: str
    """`INSIDE` or `BETWEEN`."""

    @property
    def algorithm_bandwidth(self) -> float:
        """Return the size over the time, in bytes/s."""
        return self.bytes / self.seconds

    @property
    def bus_bandwidth(self) -> float:
        """Return the bus bandwidth of nccl-tests, in bytes/s."""
        return self.algorithm_bandwidth * bus_factor(self.name, self.ranks)


def bus_factor(name: str, ranks: int) -> float:
    """Return the ratio of bus bandwidth to algorithm bandwidth."""
    return (2 if name == "all_reduce" else 1) * (ranks - 1) / ranks


def scopes(world: int, local: int) -> list[tuple[str, list[int]]]:
    """Choose the groups of ranks to measure: the ranks of the first node, and the first rank of each node.

    Args:
        world: number of ranks.
        local: number of ranks per node; the ranks of a node are consecutive.
    """
    groups = []
    if local > 1:
        groups.append((INSIDE, list(range(min(local, world)))))
    if world > local:
        groups.append((BETWEEN, list(range(0, world, local))))
    return groups


def measure_collectives(
    group: dist.ProcessGroup,
    accelerator: Accelerator,
    device: torch.device,
    sizes: Sequence[int],
    *,
    repeats: int,
    scope: str,
) -> list[Collective]:
    """Time every collective at several sizes; all ranks of the group must call it.

    Args:
        group: group of at least two ranks.
        accelerator: accelerator that the ranks run on.
        device: device of this rank.
        sizes: buffer sizes in bytes, rounded down to a multiple of the ranks.
        repeats: timed calls of each collective at each size.
        scope: `INSIDE` or `BETWEEN`.
    """
    ranks = dist.get_world_size(group)
    measured = []
    for size in sizes:
        each = max(1, size // 4 // ranks)
        whole = torch.ones(each * ranks, device=device)
        for name, call in _calls(whole, each, group).items():
            measured.append(
                Collective(name, 4 * each * ranks, ranks, _seconds(call, accelerator, device, group, repeats), scope)
            )
    return measured


def _calls(whole: Tensor, each: int, group: dist.ProcessGroup) -> dict[str, Callable[[], object]]:
    part, other = whole[:each].clone(), torch.empty_like(whole)
    return {
        "all_reduce": lambda: dist.all_reduce(other, group=group),
        "all_gather": lambda: dist.all_gather_into_tensor(other, part, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole, group=group),
        "all_to_all": lambda: dist.all_to_all_single(other, whole, group=group),
    }


def _seconds(
    call: Callable[[], object], accelerator: Accelerator, device: torch.device, group: dist.ProcessGroup, repeats: int
) -> float:
    for _ in range(_WARM_UP):
        call()
    accelerator.synchronize()
    times = []
    for _ in range(repeats):
        dist.barrier(group)
        begin = accelerator.mark()
        call()
        times.append(accelerator.seconds(begin, accelerator.mark()))
    slowest = torch.tensor(statistics.median(times), device=device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX, group=group)
    return float(slowest)
