"""Plain text and Markdown: a file is one document, or each of its lines is."""

from __future__ import annotations

from collections.abc import Iterator

from longcat.corpus.readers.document import document_format
from longcat.corpus.readers.encoding import decode
from longcat.corpus.readers.format import File, Format, Reading, Record
from longcat.corpus.readers.lines import line_records, split_lines_of_file


def _line(content: bytes, reading: Reading) -> Record | None:
    text = decode(content, "", reading.encodings)
    if isinstance(text, str):
        text = text.removesuffix("\r")
    return text if text and not (isinstance(text, str) and text.isspace()) else None


def _lines(file: File, reading: Reading, begin: int, end: int | None) -> Iterator[Record]:
    return line_records(file, reading, begin, end, _line)


FORMAT = document_format((".txt", ".md"), lambda content, file, reading: decode(content, str(file), reading.encodings))
LINES = Format(FORMAT.suffixes, _lines, split_lines_of_file)
