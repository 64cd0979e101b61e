"""What a file format is to the corpus: its suffixes, how its records are read, and how a large file is divided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Literal, Protocol


class File(Protocol):
    """A file to read: a `Path`, or anything with a name that opens. `str` of it is its place, for messages."""

    @property
    def name(self) -> str:
        """The last part of its place."""

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Open it for reading; what comes back can be sought."""


class Labelled(str):
    """A text, and what its record says of it."""

    id: str | None
    url: str | None

    @classmethod
    def of(cls, text: str, id: object, url: object) -> Labelled:
        """Label a text; only strings and numbers are labels."""
        labelled = cls(text)
        labelled.id, labelled.url = _label(id), _label(url)
        return labelled


def _label(value: object) -> str | None:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # lone surrogates are no text
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


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
    lines: bool = False
    """Whether each line of a text file is a document."""


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
    records: Callable[[File, Reading, int, int | None], Iterator[Record]]
    """Read the records between two places: file, reading, begin, end (None for the end of the file)."""
    split: Callable[[File, int, int], Iterator[Slice]] | None = None
    """Divide a plain file that is larger than a block: file, its bytes, bytes of a block. None where a file is always read whole."""
    compressible: bool = True
    """Whether files may be compressed as a whole; a format that is compressed inside is not."""
