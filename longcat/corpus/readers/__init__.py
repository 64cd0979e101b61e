"""The file formats that a corpus is read from: one module and one `Format` for each, `FORMATS`, the list of them,
and those that others register by the suffix of their files (`longcat.extensions.FORMATS`).

A record that cannot be read is the caller's to judge (`corpus.max_bad_fraction`); a file that is cut off or damaged as
a whole is a `DataError` at once, because nobody can tell how much of it is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from longcat.corpus.readers import arrow, delimited, html, json, jsonl, lines, manual, parquet, python, text
from longcat.corpus.readers.compression import COMPRESSIONS, compression
from longcat.corpus.readers.format import File, Format, Oversized, Reading, Record, Slice, Unreadable
from longcat.corpus.readers.values import as_text
from longcat.errors import DataError
from longcat.extensions import FORMATS as REGISTERED
from longcat.extensions import Extension, find, registered

__all__ = [
    "FORMATS",
    "File",
    "Format",
    "Oversized",
    "Reading",
    "Record",
    "Slice",
    "Unreadable",
    "as_text",
    "file_suffix",
    "formats_in_words",
    "line_of",
    "own_code",
    "read_file",
    "split_file",
]

FORMATS: list[Format] = [
    jsonl.FORMAT,
    json.FORMAT,
    delimited.FORMAT,
    parquet.FORMAT,
    arrow.FORMAT,
    text.FORMAT,
    python.FORMAT,
    html.FORMAT,
    manual.FORMAT,
]
"""Every format that is built in. No two of them share a suffix."""


def _registered(name: str) -> Extension | None:
    """Find the format of somebody else's that reads a file, by the end of its name; it is not imported."""
    suffix = name.rpartition(".")[2] if "." in name else ""
    return find(REGISTERED, suffix, "corpus.sources, files=") if suffix and suffix in registered(REGISTERED) else None


def own_code(file: File) -> list[dict[str, str]]:
    """Return the identity of the code that reads a file, if that is somebody else's format."""
    if _built_in_suffix(file.name.lower()) is None and (own := _registered(file.name.lower())) is not None:
        own.load("corpus.sources, files=", Format)
        return [own.identity]
    return []


def formats_in_words() -> str:
    """Name the formats that are read, for messages."""
    alone = [suffix for known in FORMATS for suffix in known.suffixes if not known.compressible]
    alone += [f".{name}" for name in registered(REGISTERED)]
    texts = [suffix for known in FORMATS for suffix in known.suffixes if known.compressible]
    return f"formats are {', '.join(texts)} (also compressed, as in .jsonl{' .jsonl'.join(COMPRESSIONS)}), {', '.join(alone)}"


def file_suffix(file: File) -> str | None:
    """Return the suffix that says how a file is read, whatever its case, such as `.jsonl.gz`; None if it is not read."""
    name = file.name.lower()
    own = _registered(name)
    return _built_in_suffix(name) or (None if own is None else f".{own.name}")


def _built_in_suffix(name: str) -> str | None:
    packed = compression(name) or ""
    inner = name.removesuffix(packed)
    for known in FORMATS:
        for suffix in known.suffixes:
            if inner.endswith(suffix) and (known.compressible or not packed):
                return suffix + packed
    return None


def read_file(file: File, reading: Reading, begin: int = 0, end: int | None = None) -> Iterator[Record]:
    """Read the records of one file in their order.

    Args:
        file: a file that has a `file_suffix`.
        reading: how text is taken from records.
        begin: where to start: a place that `split_file` gave.
        end: the place after the last; None reads to the end.

    Raises:
        DataError: the file cannot be opened, is cut off or damaged, or has no such column of text.
    """
    try:
        yield from _format_of(file, reading.lines).records(file, reading, begin, end)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error


def split_file(file: File, size: int, block_bytes: int, lines: bool = False) -> Iterator[Slice]:
    """Divide a file of `size` bytes into slices of about `block_bytes`, or leave it whole if its format demands that.

    `lines` says that each line of a text file is a document.

    Raises:
        DataError: the file is damaged.
    """
    split = _format_of(file, lines).split
    if size <= block_bytes or split is None or compression(file.name):
        yield Slice(0, None, size)
    else:
        yield from split(file, size, block_bytes)


def line_of(file: Path, begin: int, number: int) -> int | None:
    """Return the line that a record lies in; none if the file's format has no lines, or no longer so many.

    Args:
        file: of the file.
        begin: a place that `split_file` gave.
        number: of the record from there on, from 1.
    """
    suffix = (file_suffix(file) or "").removesuffix(compression(file.name) or "")
    return lines.line_of(file, begin, number) if suffix in jsonl.FORMAT.suffixes else None


def _format_of(file: File, lines: bool) -> Format:
    suffix = (file_suffix(file) or "").removesuffix(compression(file.name) or "")
    for known in FORMATS:
        if suffix in known.suffixes:
            return text.LINES if lines and known is text.FORMAT else known
    if (own := _registered(file.name.lower())) is not None:
        return own.load("corpus.sources, files=", Format)
    raise DataError(f"{file} has a format that is not read; {formats_in_words()}")
