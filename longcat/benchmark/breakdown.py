"""Where the time of a training step goes, from a profiler's trace.

Every moment of the steps is given to one part, in this order of precedence:

data_wait               the loop waits for a batch
exposed_communication   a collective is under way, and nothing is computed
optimizer               computing inside the optimizer: clipping, update, routing bias
compute                 any other computing: forward and backward pass
other                   the rest: Python, launching, waiting without a recorded reason
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.accelerator import BACKENDS
from longcat.errors import DataError
from longcat.training.regions import DATA, OPTIMIZER, STEP

PARTS = ("compute", "exposed_communication", "optimizer", "data_wait", "other")
_COLLECTIVES = ("c10d::", "_c10d_functional::")
_DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})

Interval = tuple[float, float]


@dataclass(frozen=True)
class Breakdown:
    """Mean over the traced steps, in seconds of one process."""

    step_seconds: float
    parts: dict[str, float]
    """By the names in `PARTS`; they add up to the step."""
    hidden_communication: float
    """Collectives under way while something is computed."""
    steps: int


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Events of a Chrome trace, gzipped or not.

    Raises:
        DataError: it cannot be read.
    """
    try:
        raw = path.read_bytes()
        found = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        return list(found["traceEvents"] if isinstance(found, dict) else found)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is no Chrome trace: {error}") from None


def breakdown(events: Iterable[Mapping[str, Any]]) -> Breakdown:
    """Break down the steps of a trace.

    On a device its own events tell what is computed; without any, the operators that the host ran do.

    Raises:
        DataError: no step is annotated, or nothing was recorded inside.
    """
    complete = [event for event in events if event.get("ph") == "X"]
    steps = [_interval(event) for event in complete if _is(event, STEP, "user_annotation")]
    if not steps:
        raise DataError(f"the trace has no {STEP!r}")
    on_device = any(event.get("cat") in _DEVICE for event in complete)
    annotation = "gpu_user_annotation" if on_device else "user_annotation"
    computed: list[Interval] = []
    exchanged: list[Interval] = []
    for event in complete:
        name, kind = str(event["name"]), event.get("cat")
        if _collective(name):
            # on a device the host's part of a collective is only its launch
            if not on_device or kind in _DEVICE:
                exchanged.append(_interval(event))
        elif kind in _DEVICE if on_device else kind == "cpu_op" and name.startswith("aten::"):
            computed.append(_interval(event))
    whole = union(steps)
    compute, exchange = intersection(union(computed), whole), intersection(union(exchanged), whole)
    if not compute:
        raise DataError("the profiler recorded no computing inside the steps")
    waiting = union(_interval(event) for event in complete if _is(event, DATA, "user_annotation"))
    updating = union(_interval(event) for event in complete if _is(event, OPTIMIZER, annotation))

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
    """The same time without overlaps, in order."""
    merged: list[Interval] = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > begin:
            merged.append((begin, end))
    return merged


def intersection(some: list[Interval], others: list[Interval]) -> list[Interval]:
    """The time in both; each in order and without overlaps."""
    found, i, j = [], 0, 0
    while i < len(some) and j < len(others):
        begin, end = max(some[i][0], others[j][0]), min(some[i][1], others[j][1])
        if begin < end:
            found.append((begin, end))
        if some[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return found


def length(intervals: Iterable[Interval]) -> float:
    """Seconds altogether."""
    return sum(end - begin for begin, end in intervals)


def _interval(event: Mapping[str, Any]) -> Interval:
    begin = float(event["ts"]) / 1e6
    return begin, begin + float(event["dur"]) / 1e6


def _is(event: Mapping[str, Any], name: str, kind: str) -> bool:
    return event.get("name") == name and event.get("cat") == kind


def _collective(name: str) -> bool:
    return name.startswith(_COLLECTIVES) or name.lower().startswith(tuple(BACKENDS.values()))
