"""JSON files: lines as in `jsonl`, a list of objects, or objects over several lines, which follow one another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from longcat.corpus.readers.compression import chunks
from longcat.corpus.readers.encoding import DETECT, decode, encoding_of, to_utf8
from longcat.corpus.readers.format import File, Format, Oversized, Reading, Record, Unreadable
from longcat.corpus.readers.jsonl import json_text
from longcat.corpus.readers.lines import line_records, split_lines, split_lines_of_file
from longcat.errors import DataError

_OUTSIDE, _INSIDE = re.compile(rb'["{}\[\]]'), re.compile(rb'["\\]')
_FIRST_LINE_BYTES = 1 << 24


def _records(file: File, reading: Reading, begin: int, end: int | None) -> Iterator[Record]:
    if _is_lines(file, reading):
        yield from line_records(file, reading, begin, end, json_text)
    elif not begin:  # the first slice is all of it
        yield from _values_records(file, reading)


def _is_lines(file: File, reading: Reading) -> bool:
    """Say whether a file has an object on each line, as far as its first line tells."""
    encoding = encoding_of(file, reading.encodings)
    with file.open("rb") as stream:
        for line in split_lines(to_utf8(chunks(stream, file), encoding, file), _FIRST_LINE_BYTES):
            if line is None:
                return True
            text = decode(line, "", encoding.names)
            if not isinstance(text, str):
                return True
            if text := text.strip():
                return not text.startswith("[") and not _goes_on(text)
    return True


def _goes_on(text: str) -> bool:
    """Say whether JSON is right as far as it goes, but not complete."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text)
    except (ValueError, RecursionError):
        return False
    return False


def _values_records(file: File, reading: Reading) -> Iterator[Record]:
    encoding = encoding_of(file, reading.encodings)
    older = [name for name in encoding.names if name not in ("utf-8", DETECT)]
    if older and not encoding.wide:  # brackets may be parts of characters in these
        encoding = replace(encoding, wide=older[0])
    with file.open("rb") as stream:
        pieces = to_utf8(chunks(stream, file), encoding, file)
        for number, content in enumerate(split_values(pieces, reading.record_bytes, str(file)), start=1):
            place = f"{file}, item {number}"
            record = Oversized(place) if content is None else json_text(content, reading)
            if isinstance(record, Unreadable):
                record = replace(record, place=place)
            if record is not None:
                yield record


def split_values(pieces: Iterable[bytes], value_bytes: int, where: str) -> Iterator[bytes | None]:
    """Yield the objects of a list, or those that follow one another; None stands for one longer than `value_bytes`.

    What stands between them is not read: a file with anything but commas and white space there is refused.

    Raises:
        DataError: the file ends within a value, or is neither of these.
    """
    depth, quoted, base = 0, False, None  # base: brackets around every value
    value = bytearray()
    size = 0
    rest = b""  # what escapes its successor, at the end of a piece
    for piece in pieces:
        piece, rest = rest + piece, b""
        start = position = 0
        while position < len(piece):
            match = (_INSIDE if quoted else _OUTSIDE).search(piece, position)
            if match is None:
                break
            mark, position = match[0], match.end()
            if base is None:
                base = 1 if mark == b"[" else 0
            if mark == b"\\":
                if position == len(piece):
                    piece, rest = piece[:-1], b"\\"
                position += 1
            elif mark == b'"':
                if depth < base + 1:
                    raise DataError(f"{where} is no JSON of objects: there is a string outside of them")
                quoted = not quoted
            elif mark in b"{[":
                depth += 1
                if depth == base + 1:
                    _check_between(piece[start : match.start()], base, where)
                    start = match.start()
            else:
                depth -= 1
                if depth == base:
                    size += position - start
                    value += piece[start:position]
                    yield None if size > value_bytes else bytes(value)
                    value.clear()
                    size, start = 0, position
                if depth < 0:
                    raise DataError(f"{where} is no JSON: it closes more than it opens")
        if depth > (base or 0):
            size += len(piece) - start
            if size <= value_bytes:
                value += piece[start:]
            else:
                value.clear()
        else:
            _check_between(piece[start:], base or 0, where)
    if depth or quoted:
        raise DataError(f"{where} is cut off: its JSON has no end; fetch it again")


def _check_between(content: bytes, base: int, where: str) -> None:
    allowed = b" \t\r\n,[]\xef\xbb\xbf" if base else b" \t\r\n,\xef\xbb\xbf"
    if stray := content.strip(allowed):
        raise DataError(f"{where} is no JSON of objects: there is {stray[:40].decode(errors='replace')!r} between them")


FORMAT = Format((".json",), _records, split_lines_of_file)
