"""JSON lines: a record is a line with an object that has the text in one of its fields."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from longcat.corpus.readers.encoding import decode
from longcat.corpus.readers.format import File, Format, Reading, Record, Unreadable
from longcat.corpus.readers.lines import line_records, split_lines_of_file
from longcat.corpus.readers.values import MISSING, as_text, find, labelled
from longcat.errors import DataError
from longcat.unpacking import parse_json


def json_text(content: bytes, reading: Reading) -> Record | None:
    """Take the text from an object in JSON; an `Unreadable` has no place yet, None stands for an empty line."""
    value: Any
    if _is_blank(content):
        return None
    try:
        value = orjson.loads(content)
    except ValueError:  # or not quite: another encoding, a byte-order mark, NaN; or to say what is wrong
        text = decode(content, "", reading.encodings)
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
    text = find(value, reading.text_field)
    if text is MISSING:
        fields = ", ".join(map(str, value)) or "none"
        return Unreadable("", f"no field {reading.text_field!r}; there are: {fields}")
    return labelled(as_text(text, "", reading.encodings), value)


def json_lines(path: Path) -> Iterator[Any]:
    """Yield the value of each line of a file in UTF-8; empty lines and a byte-order mark in front are passed over.

    Raises:
        DataError: a line is no JSON.
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not _is_blank(line):
                try:
                    yield parse_json(line.removeprefix(codecs.BOM_UTF8))
                except ValueError as error:
                    raise DataError(f"{path}:{number}: broken JSON ({error})") from None


def _is_blank(line: bytes) -> bool:
    return not line.removeprefix(codecs.BOM_UTF8).strip()


def _records(file: File, reading: Reading, begin: int, end: int | None) -> Iterator[Record]:
    return line_records(file, reading, begin, end, json_text)


FORMAT = Format((".jsonl", ".ndjson"), _records, split_lines_of_file)
