"""Collectives along each axis of the layout: what a step needs, how fast each one is, and so how long an axis takes.

Which collectives an axis uses, how often, and at which sizes comes from a step that was watched
(`longcat.benchmark.traffic`). They are then timed on the groups of the layout, all groups of an axis at the same time.
Bandwidths are those of nccl-tests (its doc/PERFORMANCE.md):

algorithm bandwidth   size / time, the size being that of the whole buffer which a rank reduces, gathers, scatters,
                      exchanges or sends
bus bandwidth         bytes that leave a rank / time: algorithm bandwidth times 2 (n-1)/n for all-reduce, (n-1)/n for
                      all-gather, reduce-scatter and all-to-all, 1 for send. It does not depend on the number of ranks n
                      and can be compared with the bandwidth of the link.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from longcat.accelerator import Accelerator
from longcat.benchmark.traffic import Message, Splits
from longcat.costs.traffic import bus_factor

INSIDE, BETWEEN = "inside a node", "between nodes"
_WARM_UP = 2
Exchange = tuple[tuple[int, ...], tuple[int, ...]]
"""Bytes to each process of a group, and from each."""


@dataclass(frozen=True)
class Collective:
    """Measured time of one collective at one size, along one axis."""

    axis: str
    name: str
    """all_reduce, all_gather, reduce_scatter, all_to_all, broadcast or send."""
    splits: Splits
    """Of an exchange: even, or uneven as the router or the rows of a batch made it in a step."""
    bytes: int
    """Size of the whole buffer; of an uneven exchange its mean over ranks."""
    link_bytes: float
    """That leave a rank, as a mean over ranks."""
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
        """Return the bytes that leave a rank over the time, in bytes/s."""
        return self.link_bytes / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and both bandwidths."""
        return asdict(self) | {"algorithm_bandwidth": self.algorithm_bandwidth, "bus_bandwidth": self.bus_bandwidth}


@dataclass(frozen=True)
class Need:
    """What one kind of collective along an axis has to do in a step of one process."""

    axis: str
    name: str
    splits: Splits
    ranks: int
    scope: str
    messages: int
    bytes: int
    """Of all messages together."""
    link_bytes: float
    """That leave this process."""
    largest: int
    """Bytes of the largest message."""

    @property
    def mean(self) -> int:
        """Return the bytes of a mean message."""
        return max(1, round(self.bytes / self.messages))


def scope_of(ranks: Sequence[int], local: int) -> str:
    """Return whether ranks are all inside a node; `local` consecutive ones are on each."""
    return INSIDE if len({rank // local for rank in ranks}) == 1 else BETWEEN


def needs(messages: Iterable[Message], scopes: dict[str, str]) -> list[Need]:
    """Add up the messages of a step by axis and collective.

    Args:
        messages: of one process.
        scopes: `INSIDE` or `BETWEEN` for each axis.
    """
    alike: dict[tuple[str, str, Splits], list[Message]] = {}
    for message in messages:
        if message.ranks > 1 and message.bytes:
            alike.setdefault((message.axis, message.name, message.splits), []).append(message)
    return [
        Need(
            axis, name, splits, of[0].ranks, scopes.get(axis, INSIDE), len(of), sum(one.bytes for one in of),
            sum(one.link_bytes for one in of), max(one.bytes for one in of),
        )
        for (axis, name, splits), of in alike.items()
    ]  # fmt: skip


def most(of_ranks: Iterable[Sequence[Need]]) -> list[Need]:
    """Take for each collective along each axis what it needs in the process that sends most."""
    found: dict[tuple[str, str, Splits], Need] = {}
    for need in (need for needs in of_ranks for need in needs):
        key = need.axis, need.name, need.splits
        if key not in found or need.link_bytes > found[key].link_bytes:
            found[key] = need
    return sorted(found.values(), key=lambda need: (need.axis, need.name, need.splits))


def typical_exchange(messages: Sequence[Message], of_group: Sequence[Sequence[int]]) -> Exchange | None:
    """Choose the uneven exchange of a step whose size, over the whole group, is nearest to the mean; None without one.

    Args:
        messages: this process' uneven exchanges along an axis, in their order.
        of_group: bytes of the same exchanges in each process of the group.
    """
    totals = [sum(sizes) for sizes in zip(*of_group, strict=True)]
    if not totals:
        return None
    mean = statistics.fmean(totals)
    chosen = messages[min(range(len(totals)), key=lambda number: abs(totals[number] - mean))]
    return chosen.to, chosen.of


class Bench:
    """Times collectives along the axes of a layout; all ranks ask for the same ones, in the same order."""

    def __init__(self, accelerator: Accelerator, device: torch.device, repeats: int) -> None:
        """Prepare.

        Args:
            accelerator: accelerator that the ranks run on.
            device: device of this rank.
            repeats: timed calls of each collective at each size.
        """
        self._accelerator, self._device, self._repeats = accelerator, device, repeats

    def even(self, need: Need, group: dist.ProcessGroup | None, sizes: Sequence[int]) -> list[Collective]:
        """Time one kind of collective along an axis at several sizes. Collective, of all ranks.

        Args:
            need: says which collective, along which axis.
            group: this rank's group along the axis; None if it has none, but others have.
            sizes: buffer sizes in bytes, rounded down to a multiple of the ranks.
        """
        measured = []
        for size in sizes:
            each = max(1, size // 4 // need.ranks)
            seconds = self._seconds(None if group is None else _even(need.name, each, self._device, group))
            whole = 4 * each * need.ranks
            leaving = whole * bus_factor(need.name, need.ranks)
            measured.append(Collective(need.axis, need.name, "even", whole, leaving, need.ranks, seconds, need.scope))
        return measured

    def uneven(self, need: Need, group: dist.ProcessGroup | None, exchange: Exchange | None) -> Collective:
        """Time an exchange with the splits of a step. Collective, of all ranks.

        Args:
            need: says along which axis.
            group: this rank's group along the axis, or None as above.
            exchange: what this rank sends and receives; None only without a group.
        """
        call, own = None, [0.0, 0.0, 0.0]
        if group is not None and exchange is not None:
            to, of = exchange
            call = _uneven(to, of, self._device, group)
            own = [float(sum(to)), float(sum(to) - to[dist.get_rank(group)]), 1.0]
        sums = torch.tensor(own, device=self._device)
        dist.all_reduce(sums)
        whole, leaving, ranks = sums.tolist()
        seconds = self._seconds(call)
        return Collective(
            need.axis, need.name, "uneven", round(whole / ranks), leaving / ranks, need.ranks, seconds, need.scope
        )

    def _seconds(self, call: Callable[[], object] | None) -> float:
        """Time a collective of all groups of an axis at once, as they share links in a step, too."""
        for _ in range(_WARM_UP if call else 0):
            call()  # type: ignore[misc]
        self._accelerator.synchronize()
        times = []
        for _ in range(self._repeats):
            dist.barrier()
            begin = self._accelerator.mark()
            if call:
                call()
            times.append(self._accelerator.seconds(begin, self._accelerator.mark()))
        slowest = torch.tensor(statistics.median(times) if call else 0.0, device=self._device)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        return float(slowest)


def _even(name: str, each: int, device: torch.device, group: dist.ProcessGroup) -> Callable[[], object]:
    ranks, place = dist.get_world_size(group), dist.get_rank(group)
    whole = torch.ones(each * ranks, device=device)
    part, other = whole[:each].clone(), torch.empty_like(whole)
    calls: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: dist.all_reduce(other, group=group),
        "all_gather": lambda: dist.all_gather_into_tensor(other, part, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole, group=group),
        "all_to_all": lambda: dist.all_to_all_single(other, whole, group=group),
        "broadcast": lambda: dist.broadcast(other, group_src=0, group=group),
        "send": lambda: _send_on(whole, other, (place + 1) % ranks, (place - 1) % ranks, group),
    }
    return calls[name]


def _uneven(
    to: Sequence[int], of: Sequence[int], device: torch.device, group: dist.ProcessGroup
) -> Callable[[], object]:
    outgoing, incoming = (torch.ones(sum(sizes), dtype=torch.uint8, device=device) for sizes in (to, of))
    return lambda: dist.all_to_all_single(incoming, outgoing, list(of), list(to), group=group)


def _send_on(outgoing: Tensor, incoming: Tensor, after: int, before: int, group: dist.ProcessGroup) -> None:
    """Send to the next process and receive from the one before, as stages of a pipeline do."""
    operations = [
        dist.P2POp(dist.isend, outgoing, group=group, group_peer=after),
        dist.P2POp(dist.irecv, incoming, group=group, group_peer=before),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()


@dataclass(frozen=True)
class AxisTime:
    """How long an axis takes in a step, by what it needs and the bandwidth that was measured."""

    axis: str
    ranks: int
    scope: str
    messages: int
    link_bytes: float
    """That leave a process in a step."""
    seconds: float
    """The same over the bus bandwidth of each collective, at the size of a mean message."""

    @property
    def bus_bandwidth(self) -> float:
        """Return the bytes over the seconds: the mean over its collectives, in bytes/s."""
        return self.link_bytes / self.seconds


def axis_times(needed: Iterable[Need], measured: Sequence[Collective]) -> list[AxisTime]:
    """Divide what each axis needs by the bandwidth measured, the longest axis first.

    A mean message stands for all: where time grows with size in a straight line, the sum is the same.
    """
    parts: dict[str, list[tuple[Need, float]]] = {}
    for need in needed:
        alike = [one for one in measured if (one.axis, one.name, one.splits) == (need.axis, need.name, need.splits)]
        if alike:
            nearest = min(alike, key=lambda one: abs(one.bytes - need.mean))
            parts.setdefault(need.axis, []).append((need, need.link_bytes / nearest.bus_bandwidth))
    times = [
        AxisTime(
            axis, pairs[0][0].ranks, pairs[0][0].scope, sum(need.messages for need, _ in pairs),
            sum(need.link_bytes for need, _ in pairs), sum(seconds for _, seconds in pairs),
        )
        for axis, pairs in parts.items()
    ]  # fmt: skip
    return sorted(times, key=lambda one: -one.seconds)
