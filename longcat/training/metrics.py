"""Records of a run, one JSON object per line, and how another process follows them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from longcat.disk import write_text

Records = list[dict[str, Any]]

FSYNC_EVERY = 10


class MetricsFile:
    """Appends records to a file; a resumed run first drops those after the checkpoint that it resumes from."""

    def __init__(self, path: Path, after_step: int) -> None:
        kept = [record for record in read_metrics(path) if record["step"] <= after_step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._stream = path.open("a", encoding="utf-8")
        self._written = 0

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; every few of them are forced to the disk."""
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()
        self._written += 1
        if self._written % FSYNC_EVERY == 0:
            os.fsync(self._stream.fileno())


class Follower:
    """Reads new records of a file that another process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_step = 0
        self._seen: tuple[int, int] | None = None

    def new(self) -> Records:
        """Return the records of steps that have not been returned yet."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return []
        inode, offset = self._seen or (status.st_ino, 0)
        if inode != status.st_ino:  # a resumed run has replaced the file
            offset = 0
        records, offset = _read(self.path, offset)
        self._seen = (status.st_ino, offset)
        fresh = [record for record in records if record["step"] > self.last_step]
        if fresh:
            self.last_step = fresh[-1]["step"]
        return fresh


def read_metrics(path: Path) -> Records:
    """Return all complete records; a line that a crash cut short is left out."""
    return _read(path, 0)[0] if path.exists() else []


def _read(path: Path, offset: int) -> tuple[Records, int]:
    """Complete records from byte `offset` on, and the offset behind them."""
    with path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read()
    complete = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in complete.splitlines()], offset + len(complete)
