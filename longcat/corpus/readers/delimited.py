"""CSV and TSV with a header: a record is a row, which may go over several lines within quotation marks (RFC 4180)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from longcat.corpus.readers.compression import chunks, compression
from longcat.corpus.readers.encoding import decode, encoding_of, to_utf8
from longcat.corpus.readers.format import File, Format, Oversized, Reading, Record, Unreadable
from longcat.corpus.readers.values import labelled
from longcat.errors import DataError


def _records(file: File, reading: Reading, begin: int, end: int | None) -> Iterator[Record]:
    name = file.name.lower()
    delimiter = "\t" if name.removesuffix(compression(name) or "").endswith(".tsv") else ","
    encoding = encoding_of(file, reading.encodings)
    reading = replace(reading, encodings=encoding.names)
    csv.field_size_limit(max(csv.field_size_limit(), reading.record_bytes))
    column: int | None = None
    header: list[str] = []
    with file.open("rb") as stream:
        pieces = to_utf8(chunks(stream, file), encoding, file)
        for line, row in split_rows(pieces, delimiter.encode(), reading.record_bytes, str(file)):
            place = f"{file}, line {line}"
            if row is None:
                yield Oversized(place)
                continue
            if not row.strip():
                continue
            fields = _fields(row, delimiter, place, reading)
            if column is None:
                header = _header(fields, file, reading.text_field)
                column = header.index(reading.text_field)
            elif isinstance(fields, Unreadable):
                yield fields
            elif len(fields) != len(header):
                yield Unreadable(place, f"{len(fields)} fields, where the header has {len(header)}")
            else:
                yield labelled(fields[column], dict(zip(header, fields, strict=True)))


def split_rows(
    pieces: Iterable[bytes], delimiter: bytes, row_bytes: int, where: str
) -> Iterator[tuple[int, bytes | None]]:
    """Yield rows with the numbers of the lines they begin in; None stands for one longer than `row_bytes`.

    A quotation mark counts at the beginning of a field only, as in Python's csv.

    Raises:
        DataError: the last row ends within quotation marks.
    """
    marks = re.compile(b'["\n' + re.escape(delimiter) + b"]")
    row = bytearray()
    size = 0
    line = first_line = 1
    quoted = False
    after = b"\n"  # the last mark, if nothing has followed it
    for piece in pieces:
        start = position = 0
        for match in marks.finditer(piece):
            mark = match[0]
            if match.start() > position:
                after = b""
            position = match.end()
            if mark == b"\n":
                line += 1
            if mark == b'"':
                # the second of two is a mark of the text: it opens again what the first has closed
                opens = not quoted and after in (b"\n", delimiter, b'"')
                after = mark if quoted else b""
                quoted = opens
            elif not quoted:
                after = mark
                if mark == b"\n":
                    size += position - start
                    row += piece[start:position]
                    yield first_line, None if size > row_bytes else bytes(row)
                    row.clear()
                    size, start, first_line = 0, position, line
        if position < len(piece):
            after = b""
        size += len(piece) - start
        if size <= row_bytes:
            row += piece[start:]
        else:
            row.clear()
    if quoted:
        raise DataError(
            f"{where}, line {first_line}: a quotation mark opens, and none closes before the end of the file"
        )
    if size:
        yield first_line, None if size > row_bytes else bytes(row)


def _fields(row: bytes, delimiter: str, place: str, reading: Reading) -> list[str] | Unreadable:
    text = decode(row, place, reading.encodings)
    if not isinstance(text, str):
        assert isinstance(text, Unreadable)
        return text
    try:
        [fields] = csv.reader([text.removesuffix("\n").removesuffix("\r")], delimiter=delimiter, strict=True)
    except (csv.Error, ValueError) as error:
        return Unreadable(place, f"broken row: {error}")
    return fields


def _header(fields: list[str] | Unreadable, file: File, text_field: str) -> list[str]:
    if isinstance(fields, Unreadable):
        raise DataError(f"{fields.place}: {fields.reason}")
    if text_field not in fields:
        raise DataError(
            f"{file} has no column {text_field!r} in its first line; there are: {', '.join(fields)} "
            "(choose one with the source's `text_field`)"
        )
    return fields


FORMAT = Format((".csv", ".tsv"), _records)
