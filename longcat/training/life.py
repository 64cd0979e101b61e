"""The life of a run: what happened to it besides training, one JSON object a line in `events.jsonl`.

The launcher and rank 0 both write to it. Every record has `time` (Unix seconds), `kind` and facts of its own.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any, Literal, get_args

from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.unpacking import parse_json

EventKind = Literal[
    "start",
    "save",
    "skip",
    "spike",
    "rewind",
    "hang",
    "straggler",
    "corruption",
    "restart",
    "node lost",
    "node back",
    "fallback",
    "layout",
    "stop",
    "end",
]
"""What can happen to a run."""
KINDS: tuple[EventKind, ...] = get_args(EventKind)


def record_event(directory: Path, kind: EventKind, **facts: Any) -> None:
    """Append an event to the life of the run whose artifact is made in `directory`.

    A line is written at once and whole, so that several processes may write. A disk that cannot take it is passed over:
    what training itself writes there says so.

    Args:
        directory: of the artifact; nothing is written if it is not there.
        kind: what has happened.
        facts: anything that JSON has, such as `step`, `attempt` or `node`; numbers that it lacks are written as text.
    """
    line = json.dumps({"time": time.time(), "kind": kind, **_plain(facts)}, allow_nan=False) + "\n"
    path = CheckpointFolder(directory).events
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError:
        return
    try:
        size = os.fstat(descriptor).st_size
        cut = size and os.pread(descriptor, 1, size - 1) != b"\n"  # a full disk or a crash left half a line
        os.write(descriptor, (b"\n" if cut else b"") + line.encode())
    except OSError:
        return
    finally:
        os.close(descriptor)


def read_events(directory: Path) -> list[dict[str, Any]]:
    """Return the events of a run in the order in which they were written; lines that were cut short are left out."""
    path = CheckpointFolder(directory).events
    if not path.is_file():
        return []
    events = []
    for line in path.read_bytes().splitlines():
        try:
            event = parse_json(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("time"), float) and event.get("kind") in KINDS:
            events.append(event)
    return events


def _plain(value: Any) -> Any:
    """Return a value with every number that JSON lacks, and every path, as text."""
    if isinstance(value, dict):
        return {str(key): _plain(of) for key, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(of) for of in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value


def suspects(directory: Path) -> dict[str, list[int]]:
    """List the ranks that were found to compute or hold wrong bits, by the name of their node; one for each finding.

    Where it is only known that one of several ranks is wrong, none of them is listed.
    """
    found: dict[str, list[int]] = {}
    for event in read_events(directory):
        match event:
            case {"kind": "corruption", "ranks": [int(rank)], "nodes": [str(node)]}:
                found.setdefault(node, []).append(rank)
    return found


class EventFollower:
    """Reads the events that other processes write from now on."""

    def __init__(self, directory: Path) -> None:
        self._path = CheckpointFolder(directory).events
        self._directory = directory
        self._seen = len(read_events(directory))
        self._size = self._bytes()

    def new(self) -> list[dict[str, Any]]:
        """Return the events that have not been returned yet."""
        if (size := self._bytes()) == self._size:
            return []
        self._size = size
        events = read_events(self._directory)
        fresh, self._seen = events[self._seen :], len(events)
        return fresh

    def _bytes(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0


def sentence(event: dict[str, Any]) -> str | None:
    """Say what an event means to somebody who waits for the run; none if it is no news."""
    facts = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in event.items()}
    match event:
        case {"kind": "skip", "in_a_row": 1}:
            return (
                "step {step} is skipped, as its loss ({loss}) or its gradients (norm {gradient_norm}) are not finite; "
                "nothing has moved"
            ).format(**facts)
        case {"kind": "spike"}:
            return "the loss of step {step} is {loss}, far above those before it (a spike begins at {limit})".format(
                **facts
            )
        case {"kind": "rewind", "batches": []}:
            return "training goes back from step {step} to step {to}, and does the same steps again".format(**facts)
        case {"kind": "rewind", "batches": [first, last]}:
            passed = f"batch {first} is" if first == last else f"batches {first} to {last} are"
            return "training goes back from step {step} to step {to}; ".format(**facts) + f"{passed} passed over"
        case {"kind": "fallback", "instead": _}:
            return "{because}; it lies in {checkpoint} now, and training goes on from {instead}".format(**facts)
        case {"kind": "fallback"}:
            return "{because}; {checkpoint} was written to the folder of the run instead".format(**facts)
        case {"kind": "corruption", "message": str(message)}:
            return f"silent corruption before step {event.get('step')}: {message}; the work is done again"
        case {"kind": "straggler"}:
            return (
                "rank {rank} is a straggler: its steps take {seconds} s without what it waits for, those of others "
                "{usual_seconds} s"
            ).format(**facts)
    return None
