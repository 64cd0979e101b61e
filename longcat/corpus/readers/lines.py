"""Files of lines: lines are cut out of a stream that may be compressed, in any encoding, and begin anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from longcat.corpus.readers.compression import CHUNK_BYTES, chunks
from longcat.corpus.readers.encoding import encoding_of, to_utf8
from longcat.corpus.readers.format import File, Oversized, Reading, Record, Slice
from longcat.errors import DataError


def line_records(
    file: File,
    reading: Reading,
    begin: int,
    end: int | None,
    text: Callable[[bytes, Reading], Record | None],
) -> Iterator[Record]:
    """Read a file a line at a time.

    Args:
        file: the file.
        reading: how text is taken from records.
        begin: first byte where a line may begin.
        end: the byte after the last; None for the end of the file.
        text: makes a record of a line, without its place; None for a line that holds none.
    """
    encoding = encoding_of(file, reading.encodings)
    reading = replace(reading, encodings=encoding.names)
    if encoding.wide:  # newlines cannot be found in the middle of such a file: its first slice is all of it
        if begin:
            return
        end = None
    lines_before: int | None = None if begin else 0  # counted when the number of a line is first asked for
    with file.open("rb") as stream:
        stream.seek(max(0, begin - 1))
        lines = split_lines(to_utf8(chunks(stream, file), encoding, file), reading.record_bytes, begin, end)
        for number, line in enumerate(lines, start=1):
            record = Oversized("") if line is None else text(line, reading)
            if record is None:
                continue
            if isinstance(record, str):
                yield record
                continue
            if lines_before is None:
                lines_before = _count_lines(file, begin)
            yield replace(record, place=f"{file}, line {lines_before + number}")


def split_lines_of_file(file: File, size: int, block_bytes: int) -> Iterator[Slice]:
    """Divide a file by bytes, each line belonging to the slice it begins in."""
    for begin in range(0, size, block_bytes):
        end = min(begin + block_bytes, size)
        yield Slice(begin, end, end - begin)


def split_lines(
    pieces: Iterable[bytes], line_bytes: int, begin: int = 0, end: int | None = None
) -> Iterator[bytes | None]:
    """Yield the lines that begin in bytes `begin` to `end` of a file; None stands for one longer than `line_bytes`.

    Args:
        pieces: the file's content from one byte before `begin` on, divided anyhow.
        line_bytes: bytes of the longest line that is held in memory.
        begin: first byte where a line may begin.
        end: the byte after the last; None for the end of the file. The last line needs no newline.
    """
    position = max(0, begin - 1)
    started_before = begin > 0  # what is read first belongs to a line that began before
    pending: list[bytes] = []
    size = 0
    for piece in pieces:
        *finished, rest = piece.split(b"\n")
        for part in finished:
            size += len(part)
            if not started_before:
                yield None if size > line_bytes else b"".join([*pending, part]) if pending else part
            started_before = False
            position += size + 1
            pending, size = [], 0
            if end is not None and position >= end:
                return
        size += len(rest)
        pending = [] if size > line_bytes else [*pending, rest]
    if size and not started_before:
        yield None if size > line_bytes else b"".join(pending)


def line_of(file: Path, begin: int, number: int) -> int | None:
    """Return the line, from 1, of a record that is counted from a place on, from 1; blank lines are no records."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, begin - 1))
            for line, content in enumerate(split_lines(chunks(stream, file), CHUNK_BYTES, begin), start=1):
                number -= content is None or bool(content.strip())
                if not number:
                    return _count_lines(file, begin) + line
    except (OSError, DataError):
        return None
    return None


def _count_lines(file: File, begin: int) -> int:
    """Count the lines that begin before a byte of a file."""
    if not begin:
        return 0
    lines, left = 1, begin - 1
    with file.open("rb") as stream:
        while left and (chunk := stream.read(min(left, CHUNK_BYTES))):
            lines += chunk.count(b"\n")
            left -= len(chunk)
    return lines
