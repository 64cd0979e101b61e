"""Records of a run, one JSON object per line, and how another process follows them.

JSON has no word for a number that is not finite: it is written as null, and read as NaN.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

from longcat.disk import write_text
from longcat.unpacking import parse_json

Records = list[dict[str, Any]]

FSYNC_EVERY = 10
_OF_THE_ATTEMPT = ("time", "attempt")
LAST_STEPS = 20
"""Steps that the final loss is the mean of."""


class MetricsFile:
    """Appends records to a file; a resumed run first drops those after the checkpoint that it resumes from."""

    def __init__(self, path: Path, after_step: int) -> None:
        kept = [record for record in read_metrics(path) if record["step"] <= after_step]
        write_text(path, "".join(_line(record) for record in kept))
        self._stream = path.open("a", encoding="utf-8")
        self._written = 0

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; every few of them are forced to the disk."""
        self._stream.write(_line(record))
        self._stream.flush()
        self._written += 1
        if self._written % FSYNC_EVERY == 0:
            self.sync()

    def sync(self) -> None:
        """Force all records to the disk, so that no checkpoint is ahead of them."""
        os.fsync(self._stream.fileno())


class Follower:
    """Reads new records of a file that another process writes.

    Steps that are done again have new records. They are news if something was learnt otherwise, as after training went back and
    passed over batches; after a restart that did the same steps again, only times differ.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_step = 0
        self._seen: tuple[int, int] | None = None
        self._learnt: dict[int, int] = {}

    def new(self) -> Records:
        """Return the records that have not been returned yet, those left out that differ from an earlier one in times only."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return []
        inode, offset = self._seen or (status.st_ino, 0)
        if inode != status.st_ino:  # a resumed run has replaced the file
            offset = 0
        records, offset = _read(self.path, offset)
        self._seen = (status.st_ino, offset)
        fresh = [record for record in records if self._learnt.get(record["step"]) != _learnt(record)]
        self._learnt |= {record["step"]: _learnt(record) for record in fresh}
        self.last_step = max([self.last_step, *(record["step"] for record in fresh)])
        return fresh


def read_metrics(path: Path) -> Records:
    """Return all complete records; a line that a crash cut short is left out."""
    return _read(path, 0)[0] if path.exists() else []


def summarise(records: Records) -> dict[str, Any]:
    """Return what the records say of the whole run, so that an interrupted one has the same to say.

    The last losses, those of skipped steps left out; the experts of the last step; and the median throughput of the second
    half of the run, where caches are warm.
    """
    held_out = [record["held_out/loss"] for record in records if "held_out/loss" in record]
    losses = [loss for record in records[-LAST_STEPS:] if math.isfinite(loss := record["train/loss"])]
    timed = [record for record in records if "perf/tokens_per_second" in record]
    steady = sorted(timed[len(timed) // 2 :], key=lambda record: float(record["perf/tokens_per_second"]))
    middle = steady[len(steady) // 2] if steady else {}
    figures = {
        "final_loss": statistics.fmean(losses) if losses else None,
        "held_out_loss": held_out[-1] if held_out else None,
        "ffn_experts_per_token": records[-1]["moe/ffn_experts_per_token"] if records else None,
        "tokens_per_second": middle.get("perf/tokens_per_second"),
        "mfu": middle.get("perf/mfu"),
    }
    return {name: value if value is not None and math.isfinite(value) else None for name, value in figures.items()}


def _read(path: Path, offset: int) -> tuple[Records, int]:
    """Complete records from byte `offset` on, and the offset behind them."""
    with path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read()
    complete = data[: data.rfind(b"\n") + 1]
    return [_record(line) for line in complete.splitlines()], offset + len(complete)


def _learnt(record: dict[str, Any]) -> int:
    """Return a hash of what a record says besides times; NaN has one hash."""
    return hash(
        tuple(
            (name, repr(value))
            for name, value in sorted(record.items())
            if name not in _OF_THE_ATTEMPT and not name.startswith("perf/")
        )
    )


def _line(record: dict[str, Any]) -> str:
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def _record(line: bytes) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in parse_json(line).items()}
