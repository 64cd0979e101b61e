"""Timeline of a training step of one process, from a profiler's trace: passes, computing, each axis' collectives, and waiting.

Gloo and NCCL record a collective without saying which group it belongs to. So each one is matched with the region in
which it was begun (`longcat.benchmark.traffic`): those of a kind begin in order, and a thread or stream serves one axis.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from longcat.benchmark.breakdown import (
    DEVICE,
    Interval,
    intersection,
    interval,
    is_collective,
    is_computing,
    length,
    union,
)
from longcat.benchmark.traffic import SENDING, WAITING
from longcat.errors import DataError
from longcat.parallel.passes import Kind, Pass, pass_of
from longcat.training.regions import OPTIMIZER, STEP

MOST_INTERVALS = 1500
"""Of a lane: gaps shorter than this part of the step are closed."""
_KINDS = {
    "allreduce": ("all_reduce", "reduce_scatter"),  # gloo reduces for all, and scatters nothing
    "allgather": ("all_gather",),
    "reducescatter": ("reduce_scatter",),
    "alltoall": ("all_to_all",),
    "broadcast": ("broadcast",),
    "sendrecv": ("all_to_all", "send"),
    "send": ("send",),
    "recv": ("send",),
}
"""Collectives that an event's name may stand for, by what is in it; the first that is found counts."""
LAUNCHES = frozenset({"cuda_runtime", "cuda_driver"})
"""Kinds of events of the host that have the number of a kernel."""
DIRECTIONS = {"send": ", sent", "recv": ", received"}
"""What follows the axis in the name of a lane, by the event's name behind its backend; each lasts until the other process is there, too."""
HIDDEN_STATES = "hidden states"
"""Axis that stages of a pipeline wait for one another along."""


@dataclass(frozen=True)
class PassTime:
    """A micro-batch's forward or backward pass, in seconds since the step's begin."""

    kind: Kind
    micro_batch: int
    part: int
    """Number of the stage among those of the whole pipeline."""
    begin: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """A step of one process; intervals in seconds since its begin."""

    rank: int
    stage: int
    """Of the pipeline, 0 without one."""
    seconds: float
    """Of the whole step."""
    computing: list[Interval]
    """Outside of the optimizer: forward and backward passes, and what is between them."""
    passes: list[PassTime]
    """In their order; on a device from the first to the last kernel."""
    updating: list[Interval]
    """Computing inside the optimizer."""
    sending: dict[str, list[Interval]]
    """Collectives on their way, by axis, and with gloo what is sent to and received of single processes by itself."""
    waiting: dict[str, list[Interval]]
    """Waiting for them while nothing is computed, by axis."""

    @property
    def waiting_shares(self) -> dict[str, float]:
        """Return the exposed communication of each axis as a fraction of the step."""
        return {axis: length(of) / self.seconds for axis, of in self.waiting.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, and the exposed fraction of each axis."""
        return asdict(self) | {"waiting_shares": self.waiting_shares}


def timeline(events: Iterable[Mapping[str, Any]], rank: int, stage: int) -> Timeline:
    """Read the last step of a trace.

    Raises:
        DataError: no step is annotated.
    """
    complete = [event for event in events if event.get("ph") == "X"]
    steps = [interval(event) for event in complete if event["name"] == STEP and event.get("cat") == "user_annotation"]
    if not steps:
        raise DataError(f"the trace has no annotation {STEP!r}")
    begin, end = max(steps)
    whole = [(begin, end)]
    on_device = any(event.get("cat") in DEVICE for event in complete)

    def lane(intervals: Iterable[Interval]) -> list[Interval]:
        return intersection(union(intervals), whole)

    computing = lane(interval(event) for event in complete if is_computing(event, on_device))
    annotation = "gpu_user_annotation" if on_device else "user_annotation"
    inside = lane(
        interval(event) for event in complete if event["name"] == OPTIMIZER and event.get("cat") == annotation
    )
    sending = _sending(complete, on_device)
    busy = {axis: lane(of) for axis, of in sending.items()}
    if on_device:  # the host's waiting says nothing about the device
        idle = {axis: without(of, computing) for axis, of in busy.items()}
    else:
        idle = {}
        for event in complete:
            if event["name"].startswith(WAITING) and event.get("cat") == "user_annotation":
                idle.setdefault(_axis(event["name"], WAITING), []).append(interval(event))
        idle = {axis: lane(of) for axis, of in idle.items()}
    return Timeline(
        rank,
        stage,
        end - begin,
        _drawn(without(computing, inside), begin, end),
        [
            PassTime(*of, one - begin, other - begin)
            for (one, other), of in sorted(_passes(complete, on_device))
            if begin <= one and other <= end
        ],
        _drawn(intersection(computing, inside), begin, end),
        {axis: _drawn(of, begin, end) for axis, of in busy.items()},
        {axis: [(one - begin, other - begin) for one, other in of] for axis, of in idle.items()},
    )


def without(some: Sequence[Interval], others: Sequence[Interval]) -> list[Interval]:
    """Subtract intervals from others; both are sorted and disjoint, and so is the result."""
    left = []
    for begin, end in some:
        for lower, upper in others:
            if upper <= begin:
                continue
            if lower >= end:
                break
            if lower > begin:
                left.append((begin, lower))
            begin = max(begin, upper)
        if begin < end:
            left.append((begin, end))
    return left


def _passes(events: Sequence[Mapping[str, Any]], on_device: bool) -> list[tuple[Interval, Pass]]:
    """Find when each pass ran: on a device, the kernels that any thread of the host launched meanwhile."""
    found = [
        (interval(event), of)
        for event in events
        if event.get("cat") == "user_annotation" and (of := pass_of(event["name"])) is not None
    ]
    if not on_device:
        return found
    launched = {
        event["args"]["correlation"]: interval(event)[0]
        for event in events
        if event.get("cat") in LAUNCHES and "correlation" in event.get("args", {})
    }
    kernels = sorted(
        (launched[number], interval(event))
        for event in events
        if is_computing(event, on_device) and (number := event.get("args", {}).get("correlation")) in launched
    )
    ran = []
    for (began, ended), of in found:
        inside = [one for at, one in kernels if began <= at <= ended]
        if inside:
            ran.append(((min(one for one, _ in inside), max(other for _, other in inside)), of))
    return ran


def _sending(events: Sequence[Mapping[str, Any]], on_device: bool) -> dict[str, list[Interval]]:
    """Match collectives with where they were begun; each lasts from there, on a device from where its kernel begins."""
    begun: list[tuple[Interval, str, str]] = []
    for event in events:
        if event["name"].startswith(SENDING) and event.get("cat") == "user_annotation":
            axis, _, name = event["name"].removeprefix(SENDING).rpartition(", ")
            begun.append((interval(event), axis, name))
    begun.sort()
    done = sorted(
        (event for event in events if is_collective(event, on_device) and not event["name"].startswith("c10d")),
        key=interval,
    )
    transfers = [one for one in begun if one[2] == "send"]
    owners: dict[Any, str] = {}
    found: dict[str, list[Interval]] = {}
    for event in done:
        names = _names(event["name"])
        began, ended = interval(event)
        direction = DIRECTIONS.get(event["name"].partition(":")[2])
        if direction is not None:  # several are begun at once, by the thread that asks for them
            axis = next((axis for (one, other), axis, _ in transfers if one <= began <= other), None)
            if axis is not None:
                found.setdefault(axis + direction, []).append((began, ended))
            continue
        thread = event.get("pid"), event.get("tid")
        fitting = [
            one for one in begun if one[2] in names and one[0][0] <= began and owners.get(thread, one[1]) == one[1]
        ]
        if not fitting:
            continue
        begun.remove(fitting[0])
        (launched, _), axis, _ = fitting[0]
        owners[thread] = axis
        found.setdefault(axis, []).append((began if on_device else launched, ended))
    return found


def _names(event: str) -> tuple[str, ...]:
    letters = re.sub("[^a-z]", "", event.lower())
    return next((names for kind, names in _KINDS.items() if kind in letters), ())


def _axis(region: str, prefix: str) -> str:
    return region.removeprefix(prefix).rpartition(", ")[0]


def _drawn(intervals: Iterable[Interval], begin: float, end: float) -> list[Interval]:
    """Close gaps that no picture shows, and count from the step's begin."""
    gap = (end - begin) / MOST_INTERVALS
    closed = union((one - begin, other - begin + gap) for one, other in intervals)
    return [(one, other - gap) for one, other in closed]
