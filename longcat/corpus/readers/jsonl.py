"""JSON lines, plain or compressed: a record is a line with an object that has the text in one of its fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from longcat.corpus.readers.compression import CHUNK_BYTES, chunks
from longcat.corpus.readers.format import Format, Oversized, Reading, Record, Slice, Unreadable, as_text, decode
from longcat.errors import DataError


def _records(path: Path, reading: Reading, begin: int, end: int | None) -> Iterator[Record]:
    lines_before: int | None = None if begin else 0  # counted when the number of a line is first asked for
    with path.open("rb") as stream:
        stream.seek(max(0, begin - 1))
        lines = split_lines(chunks(stream, path), reading.record_bytes, begin, end)
        for number, line in enumerate(lines, start=1):
            record: Record | None = None
            if line is not None:
                if not line or line.isspace():
                    continue
                record = _text(line, reading)
                if isinstance(record, str):
                    yield record
                    continue
            if lines_before is None:
                lines_before = _count_lines(path, begin)
            place = f"{path}, line {lines_before + number}"
            yield Unreadable(place, record.reason) if isinstance(record, Unreadable) else Oversized(place)


def _split(path: Path, size: int, block_bytes: int) -> Iterator[Slice]:
    """Divide a plain file by bytes, each line belonging to the slice it begins in; a compressed one stays whole."""
    if path.suffix.lower() != ".jsonl":
        yield Slice(0, None, size)
        return
    for begin in range(0, size, block_bytes):
        end = min(begin + block_bytes, size)
        yield Slice(begin, end, end - begin)


def line_of(path: Path, begin: int, number: int) -> int | None:
    """Return the line, from 1, of a record that is counted from a place on, from 1; blank lines are no records."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, begin - 1))
            for line, content in enumerate(split_lines(chunks(stream, path), CHUNK_BYTES, begin), start=1):
                number -= content is None or bool(content.strip())
                if not number:
                    return _count_lines(path, begin) + line
    except (OSError, DataError):
        return None
    return None


FORMAT = Format((".jsonl", ".jsonl.zst", ".jsonl.gz"), _records, _split)


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


def _count_lines(path: Path, begin: int) -> int:
    """Count the lines that begin before a byte of a file."""
    if not begin:
        return 0
    lines, left = 1, begin - 1
    with path.open("rb") as stream:
        while left and (chunk := stream.read(min(left, CHUNK_BYTES))):
            lines += chunk.count(b"\n")
            left -= len(chunk)
    return lines


def _text(line: bytes, reading: Reading) -> Record:
    """Take the text from a line; an `Unreadable` has no place yet."""
    value: Any
    try:
        value = orjson.loads(line)
    except ValueError:  # or not quite: another encoding, a byte-order mark, NaN; or to say what is wrong
        text = decode(line, "", reading.encodings)
        if not isinstance(text, str):
            return text
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            return Unreadable("", f"broken JSON: {error.msg} at column {error.colno}")
        except (ValueError, RecursionError) as error:
            return Unreadable("", f"unusable JSON: {error}")
    if not isinstance(value, dict):
        return Unreadable("", f"expected a JSON object, found {type(value).__name__}")
    if reading.text_field not in value:
        fields = ", ".join(map(str, value)) or "none"
        return Unreadable("", f"no field {reading.text_field!r}; there are: {fields}")
    return as_text(value[reading.text_field], "", reading.encodings)
