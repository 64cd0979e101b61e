"""Journals of tracking events on disk: one file for each run of a flow, and beside it how much of it has been sent.

A journal is written by a process that holds the lease of its workspace. So whoever holds it now knows that the writers
of all others are gone, wherever they ran.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longcat.artifact import write_json
from longcat.redaction import redact_tree
from longcat.unpacking import parse_json, read_json

_SENT = ".sent.json"
_OF_NUMBERS_OR_PLACES = ("points", "artifact", "model", "model input", "judged")
"""Events that are numbers, or that name files which are opened later; their texts are redacted by whoever appends them."""


class Journal:
    """Append-only file of tracking events; what a full disk does not take is kept in memory and written later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file: int | None = None
        self._written_bytes = 0
        self._waiting: list[bytes] = []
        self._told = False
        self.looks: dict[str, Iterator[int]] = defaultdict(itertools.count)
        """Numbers of the looks at the machine, by run: those of a stage that is done again go on."""

    def append(self, event: str, key: str, **values: Any) -> None:
        """Write one event, without secrets; a disk that does not take it is told of once."""
        if event not in _OF_NUMBERS_OR_PLACES:
            values = redact_tree(values)
        line = json.dumps({"event": event, "key": key, **values}).encode() + b"\n"
        with self._lock:
            self._waiting.append(line)
            try:
                self._write()
            except OSError as error:
                if not self._told:
                    logging.getLogger("longcat").warning(
                        "the tracking journal %s cannot be written (%s); the run goes on, and its records are kept in "
                        "memory until they can be",
                        self.path,
                        error.strerror,
                    )
                self._told = True

    def close(self) -> None:
        """Close the file until the next event."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file = None

    @property
    def waiting(self) -> int:
        """Return the number of events that are in memory only."""
        return len(self._waiting)

    def _write(self) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._written_bytes = os.fstat(self._file).st_size
        data = memoryview(b"".join(self._waiting))
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._written_bytes)  # no half line
            raise
        self._written_bytes += len(data)
        self._waiting.clear()


@dataclass
class Sent:
    """How far a journal has been sent, and MLflow's run of each of its keys."""

    offset: int = 0
    run_ids: dict[str, str] = field(default_factory=dict)
    experiment_id: str | None = None
    complete: bool = False
    """Whether nothing can come any more, and everything has been sent or set aside."""

    @classmethod
    def of(cls, journal: Path) -> Sent:
        """Read the state of a journal; one that cannot be read starts again, as sending twice stores once."""
        try:
            return cls(**read_json(journal.with_suffix(_SENT)))
        except (OSError, ValueError, TypeError):
            return cls()

    def save(self, journal: Path) -> None:
        """Write the state of a journal."""
        write_json(journal.with_suffix(_SENT), asdict(self))


def forget_what_was_sent(directory: Path) -> None:
    """Have every journal in a directory sent again, to a store that is new."""
    for path in directory.glob(f"*{_SENT}"):
        path.unlink(missing_ok=True)


def read_lines(journal: Path, offset: int, at_most: int) -> list[tuple[int, bytes]]:
    """Return whole lines of a journal from an offset on, each with the offset of its end."""
    lines: list[tuple[int, bytes]] = []
    with contextlib.suppress(FileNotFoundError), journal.open("rb") as stream:
        stream.seek(offset)
        while len(lines) < at_most and (line := stream.readline()).endswith(b"\n"):
            offset += len(line)
            lines.append((offset, line))
    return lines


def unsent_paths(directory: Path) -> set[Path]:
    """Return the files and folders that events in a directory's journals name and MLflow is still to be sent."""
    found = set[Path]()
    for path in directory.glob("*.jsonl"):
        for _, line in read_lines(path, Sent.of(path).offset, at_most=sys.maxsize):
            with contextlib.suppress(ValueError):
                named = parse(line).get("path")
                if isinstance(named, str):
                    found.add(Path(named))
    return found


def parse(line: bytes) -> dict[str, Any]:
    """Return the event of a line.

    Raises:
        ValueError: the line is not one of a journal.
    """
    event = parse_json(line)
    if not isinstance(event, dict) or not isinstance(event.get("event"), str) or not isinstance(event.get("key"), str):
        raise ValueError("it is not an event")
    return event


def refused_path(journal: Path) -> Path:
    """Return the file of the lines of a journal that MLflow will never take."""
    return journal.parent / "refused" / journal.name


def set_line_aside(journal: Path, reason: str, content: Mapping[str, Any]) -> None:
    """Keep what MLflow will never take, with the reason."""
    path = refused_path(journal)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"reason": reason, **content}) + "\n")


def close_abandoned(path: Path) -> None:
    """Append the end events that a killed process could not write to its journal."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):  # cut short by the kill
        data = data[: data.rfind(b"\n") + 1]
        os.truncate(path, len(data))
    open_keys: dict[str, None] = {}
    for line in data.splitlines():
        with contextlib.suppress(ValueError):
            event = parse(line)
            if event["event"] == "start":
                open_keys[event["key"]] = None
            elif event["event"] == "end":
                open_keys.pop(event["key"], None)
    journal = Journal(path)
    for key in reversed(open_keys):
        journal.append("end", key, status="KILLED", time=time.time())
    journal.close()
