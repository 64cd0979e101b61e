"""CSV files: Lightning's metrics.csv, LiBai's, wandb's exports, and any table with columns of known names."""

from __future__ import annotations

import csv
from pathlib import Path

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.keys import Merged, kind_of, meaning, seconds_of
from longcat.benchmark.logs.stream import lines, pieces
from longcat.errors import DataError


def delimiter_of(head: str) -> str | None:
    """Return what separates the columns of a table whose names include one of a speed; None if it is no table."""
    first, *others = [line for line in head.replace("\r", "\n").split("\n") if line.strip()][:3] or [""]
    for delimiter in (",", "\t", ";"):
        if ": " in first or "=" in first:
            return None
        names = next(csv.reader([first], delimiter=delimiter), [])
        roles = [known[0] if (known := meaning(name)) else "" for name in names]
        if len(names) < 2 or not set(roles) - {"", "step", "total"} or not others:
            continue
        row = next(csv.reader([others[0]], delimiter=delimiter), [])
        cells = [cell for cell, role in zip(row, roles, strict=False) if role and cell.strip()]
        if len(row) > 1 and all(seconds_of(cell) is not None for cell in cells) and seconds_of(names[0]) is None:
            return delimiter
    return None


def read_table(path: Path, log: Collected, delimiter: str) -> str:
    """Read a CSV file; rows of the same step are one reading.

    Raises:
        DataError: a row is longer than the header, or a number cannot be.
    """
    names: list[str] = []
    step_at: int | None = None
    merged = Merged(log)
    for number, piece in pieces(path):
        for line_number, line in lines(number, piece):
            if not line.strip():
                continue
            row = next(csv.reader([line], delimiter=delimiter), [])
            if not names:
                names = [name.strip() for name in row]
                _one_run(path, names)
                step_at = next((at for at, name in enumerate(names) if (meaning(name) or ("",))[0] == "step"), None)
            elif row == names:
                log.begins()
            elif len(row) > len(names):
                raise DataError(f"{path}, line {line_number}: {len(row)} values under {len(names)} names")
            else:
                record = dict(zip(names, row, strict=False))
                merged.add(line_number, record, row[step_at] if step_at is not None and step_at < len(row) else None)
    merged.flush()
    return kind_of(merged.names or names, "CSV")


def _one_run(path: Path, names: list[str]) -> None:
    """Refuse wandb's export of several runs, whose columns have the run in front of ` - `."""
    runs = sorted({name.rsplit(" - ", 1)[0] for name in names if " - " in name and meaning(name)})
    if len(runs) > 1:
        raise DataError(f"{path}: line 1 has columns of several runs: {', '.join(runs[:4])}; export one")
