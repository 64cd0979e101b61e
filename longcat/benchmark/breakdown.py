"""Breakdown of a training step's time, from a profiler's trace.

Every interval of a step is assigned to exactly one part, in this order of precedence:

data_wait               the loop waits for a batch
exposed_communication   a collective is running while nothing is computed
optimizer               computing inside the optimizer: clipping, update, routing bias
compute                 all other computing: forward and backward pass
other                   the rest: Python, kernel launches, waiting without a recorded reason
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.accelerator import BACKENDS
from longcat.errors import DataError
from longcat.training.regions import DATA, OPTIMIZER, STEP
from longcat.unpacking import Allowance

PARTS = ("compute", "exposed_communication", "optimizer", "data_wait", "other")
_COLLECTIVES = ("c10d::", "_c10d_functional::")
DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
"""Kinds of events that a device records."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Breakdown:
    """Time of one training step of one process, in seconds; the mean over the traced steps."""

    step_seconds: float
    parts: dict[str, float]
    """Seconds of each part in `PARTS`; their sum is `step_seconds`."""
    hidden_communication: float
    """Seconds in which a collective runs while something is computed."""
    steps: int
    """Number of traced steps."""


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Read the events of a Chrome trace, gzipped or not.

    Raises:
        DataError: the file is not a Chrome trace, or far larger than a compressed one can be.
    """
    try:
        raw = _decompressed(path) if path.suffix == ".gz" else path.read_bytes()
        trace = json.loads(raw)
        return list(trace["traceEvents"] if isinstance(trace, dict) else trace)
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is not a Chrome trace: {error}") from None


def _decompressed(path: Path) -> bytes:
    plain = bytearray()
    with path.open("rb") as packed, gzip.GzipFile(fileobj=packed) as stream:
        allowance = Allowance(str(path), packed.tell)
        while chunk := stream.read(1 << 20):
            allowance.take(len(chunk))
            plain += chunk
    return bytes(plain)


def breakdown(events: Iterable[Mapping[str, Any]]) -> Breakdown:
    """Break down the steps of a trace.

    Computing is taken from the device's events; without any (a CPU run), from the operators that the host ran.

    Raises:
        DataError: no step is annotated, or no computing was recorded inside the steps.
    """
    complete = [event for event in events if event.get("ph") == "X"]
    steps = [interval(event) for event in complete if _is(event, STEP, "user_annotation")]
    if not steps:
        raise DataError(f"the trace has no annotation {STEP!r}")
    on_device = any(event.get("cat") in DEVICE for event in complete)
    annotation = "gpu_user_annotation" if on_device else "user_annotation"
    computed = union(interval(event) for event in complete if is_computing(event, on_device))
    exchanged = union(interval(event) for event in complete if is_collective(event, on_device))
    whole = union(steps)
    compute, exchange = intersection(computed, whole), intersection(exchanged, whole)
    if not compute:
        raise DataError("the profiler recorded no computing inside the steps")
    waiting = union(interval(event) for event in complete if _is(event, DATA, "user_annotation"))
    updating = union(interval(event) for event in complete if _is(event, OPTIMIZER, annotation))

    data = intersection(waiting, whole)
    busy = union([*compute, *data])
    exposed = length(exchange) - length(intersection(exchange, busy))
    working = length(compute) - length(intersection(compute, data))
    update = intersection(compute, updating)
    optimizer = length(update) - length(intersection(update, data))
    total = length(whole)
    parts = {
        "compute": working - optimizer,
        "exposed_communication": exposed,
        "optimizer": optimizer,
        "data_wait": length(data),
        "other": total - working - exposed - length(data),
    }
    count = len(steps)
    return Breakdown(
        step_seconds=total / count,
        parts={name: seconds / count for name, seconds in parts.items()},
        hidden_communication=length(intersection(exchange, compute)) / count,
        steps=count,
    )


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Merge overlapping intervals; the result is sorted and disjoint."""
    merged: list[Interval] = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > begin:
            merged.append((begin, end))
    return merged


def intersection(some: list[Interval], others: list[Interval]) -> list[Interval]:
    """Intersect two lists of intervals, each sorted and disjoint."""
    common, i, j = [], 0, 0
    while i < len(some) and j < len(others):
        begin, end = max(some[i][0], others[j][0]), min(some[i][1], others[j][1])
        if begin < end:
            common.append((begin, end))
        if some[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return common


def length(intervals: Iterable[Interval]) -> float:
    """Return the total length of disjoint intervals, in seconds."""
    return sum(end - begin for begin, end in intervals)


def interval(event: Mapping[str, Any]) -> Interval:
    """Return the begin and the end of an event, in seconds."""
    begin = float(event["ts"]) / 1e6
    return begin, begin + float(event["dur"]) / 1e6


def is_collective(event: Mapping[str, Any], on_device: bool) -> bool:
    """Return whether an event is a collective; on a device the host's part of it is only its launch."""
    name = str(event["name"])
    found = name.startswith(_COLLECTIVES) or name.lower().startswith(tuple(BACKENDS.values()))
    return found and (not on_device or event.get("cat") in DEVICE)


def is_computing(event: Mapping[str, Any], on_device: bool) -> bool:
    """Return whether an event is something computed, by the device or without one by the host."""
    kind, name = event.get("cat"), str(event["name"])
    if on_device:
        return kind in DEVICE and not is_collective(event, on_device)
    return kind == "cpu_op" and name.startswith("aten::")


def _is(event: Mapping[str, Any], name: str, kind: str) -> bool:
    return event.get("name") == name and event.get("cat") == kind
