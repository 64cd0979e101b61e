"""The file formats that a corpus is read from: one module and one `Format` for each, and `FORMATS`, the list of them.

A record that cannot be read is the caller's to judge (`corpus.max_bad_fraction`); a file that is cut off or damaged as
a whole is a `DataError` at once, because nobody can tell how much of it is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from longcat.corpus.readers import arrow, html, jsonl, manual, parquet, python, text
from longcat.corpus.readers.format import Format, Oversized, Reading, Record, Slice, Unreadable, as_text
from longcat.errors import DataError

__all__ = [
    "FORMATS",
    "Format",
    "Oversized",
    "Reading",
    "Record",
    "Slice",
    "Unreadable",
    "as_text",
    "file_suffix",
    "line_of",
    "read_file",
    "split_file",
    "suffixes",
]

FORMATS: list[Format] = [
    jsonl.FORMAT,
    parquet.FORMAT,
    arrow.FORMAT,
    text.FORMAT,
    python.FORMAT,
    html.FORMAT,
    manual.FORMAT,
]
"""Every format that is read. No two of them share a suffix."""


def suffixes() -> list[str]:
    """List the suffixes of all formats."""
    return [suffix for known in FORMATS for suffix in known.suffixes]


def file_suffix(path: Path) -> str | None:
    """Return the longest of `suffixes` that a file name ends with, whatever its case; None when it has none of them."""
    name = path.name.lower()
    return max((suffix for suffix in suffixes() if name.endswith(suffix)), key=len, default=None)


def read_file(path: Path, reading: Reading, begin: int = 0, end: int | None = None) -> Iterator[Record]:
    """Read the records of one file in their order.

    Args:
        path: a file with one of `suffixes`.
        reading: how text is taken from records.
        begin: where to start: a place that `split_file` gave.
        end: the place after the last; None reads to the end.

    Raises:
        DataError: the file cannot be opened, is cut off or damaged, or has no such column of text.
    """
    try:
        yield from _format_of(path).records(path, reading, begin, end)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def split_file(path: Path, size: int, block_bytes: int) -> Iterator[Slice]:
    """Divide a file of `size` bytes into slices of about `block_bytes`, or leave it whole if its format demands that.

    Raises:
        DataError: the file is damaged.
    """
    split = _format_of(path).split
    if size <= block_bytes or split is None:
        yield Slice(0, None, size)
    else:
        yield from split(path, size, block_bytes)


def line_of(path: Path, begin: int, number: int) -> int | None:
    """Return the line that a record lies in; none if the file's format has no lines, or no longer so many.

    Args:
        path: of the file.
        begin: a place that `split_file` gave.
        number: of the record from there on, from 1.
    """
    return jsonl.line_of(path, begin, number) if file_suffix(path) in jsonl.FORMAT.suffixes else None


def _format_of(path: Path) -> Format:
    suffix = file_suffix(path)
    for known in FORMATS:
        if suffix in known.suffixes:
            return known
    raise DataError(f"{path} has a format that is not read; formats are {', '.join(suffixes())}")
