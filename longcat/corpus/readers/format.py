"""What a file format is to the corpus: its suffixes, how its records are read, and how a large file is divided."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Unreadable:
    """A record without usable text."""

    place: str
    """File and line or row, as a person would look it up."""
    reason: str


@dataclass(frozen=True)
class Oversized:
    """A record so long that it was not held in memory."""

    place: str


Record = str | Unreadable | Oversized


@dataclass(frozen=True)
class Reading:
    """How text is taken from records, whatever the format."""

    text_field: str
    """The key or column that holds the text."""
    encodings: Sequence[str]
    """Tried in this order on text that comes as bytes."""
    record_bytes: int
    """Longer lines, files and values become `Oversized`."""


@dataclass(frozen=True)
class Slice:
    """A part of a file that can be read by itself."""

    begin: int
    """Where it begins, in a unit of the format's own (byte, row group)."""
    end: int | None
    """The place after its last; None for the end of the file."""
    size_bytes: int
    """About how many bytes it takes."""


@dataclass(frozen=True)
class Format:
    """A file format."""

    suffixes: tuple[str, ...]
    """Ends of file names, in lower case and with the leading dot."""
    records: Callable[[Path, Reading, int, int | None], Iterator[Record]]
    """Read the records between two places: path, reading, begin, end (None for the end of the file)."""
    split: Callable[[Path, int, int], Iterator[Slice]] | None = None
    """Divide a file that is larger than a block: path, its bytes, bytes of a block. None where a file is always read whole."""


def document_format(suffixes: tuple[str, ...], text: Callable[[bytes, Path, Reading], Record]) -> Format:
    """Make the format of files that hold one document each.

    Args:
        suffixes: as `Format.suffixes`.
        text: takes the text from a file's content.
    """

    def records(path: Path, reading: Reading, begin: int, end: int | None) -> Iterator[Record]:
        long = path.stat().st_size > reading.record_bytes
        yield Oversized(str(path)) if long else text(path.read_bytes(), path, reading)

    return Format(suffixes, records)


def as_text(value: object, place: str, encodings: Sequence[str]) -> Record:
    """Take a value for text if it is a string without lone surrogates, or bytes in one of the encodings."""
    if isinstance(value, bytes):
        return decode(value, place, encodings)
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        return Unreadable(place, f"the text is {kind}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return Unreadable(place, f"not Unicode text: lone surrogate at character {error.start}")
    return value


def decode(content: bytes, place: str, encodings: Sequence[str]) -> Record:
    """Decode bytes with the first encoding that fits; a byte-order mark of UTF-8 in front is dropped."""
    content = content.removeprefix(codecs.BOM_UTF8)
    positions = []
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError as error:
            positions.append(error.start)
    names = " or ".join(name.upper() for name in encodings)
    return Unreadable(place, f"invalid {names} at byte {max(positions)}")
