"""What the formats of Arrow have in common: a column of values that hold text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import IO, Any

from longcat.corpus.readers.format import File, Oversized, Reading, Record, Unreadable
from longcat.corpus.readers.values import MISSING, as_text, find, labelled
from longcat.errors import DataError
from longcat.unpacking import Allowance

Columns = Iterator[tuple[int, str, Any]]
"""Parts of a table, each with the number of its first row and the name of the column of text."""
LABELS = ("id", "url")
"""Columns that label a text."""


def column_records(
    file: File, reading: Reading, kind: str, open_columns: Callable[[IO[bytes]], Columns]
) -> Iterator[Record]:
    """Read the values of a column.

    Args:
        file: the file.
        reading: how text is taken from values.
        kind: the format's name, for messages.
        open_columns: reads the column that `check_column` named from the open file.

    Raises:
        DataError: the file is damaged, or its values have far more bytes than it has.
    """
    import pyarrow as pa

    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            allowance = Allowance(str(file), lambda: size)
            for first, root, table in open_columns(stream):
                values, rest = _narrow(table.column(root), _parts(reading.text_field, root))
                labels = {name: table.column(name) for name in label_columns(table.schema, root)}
                for row, value in enumerate(values):
                    text = _cell(value, rest, f"{file}, row {first + row}", reading, allowance)
                    yield labelled(text, {name: _label(column[row]) for name, column in labels.items()})
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise damaged(file, kind, error) from None


def label_columns(schema: Any, root: str) -> list[str]:
    """Return the names of the columns that label texts, besides that of the text: of strings or whole numbers."""
    import pyarrow.types as types

    return [
        name
        for name in LABELS
        if name != root
        and schema.names.count(name) == 1
        and any(
            is_kind(schema.field(name).type) for is_kind in (types.is_string, types.is_large_string, types.is_integer)
        )
    ]


def _label(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return None


def check_column(file: File, text_field: str, schema: Any) -> str:
    """Return the name of the column that holds a field, or that the field is nested in.

    Raises:
        DataError: there is no such field.
    """
    names: list[str] = schema.names
    root = max((name for name in names if text_field == name or text_field.startswith(f"{name}.")), key=len, default="")
    if not root or not _has(schema.field(root).type, _parts(text_field, root)):
        raise DataError(
            f"{file} has no column {text_field!r}; there are: {', '.join(_leaves(schema)) or 'none'} "
            "(choose one with the source's `text_field`)"
        )
    return root


def damaged(file: File, kind: str, error: Exception) -> DataError:
    """Make the error of a file that Arrow cannot read."""
    return DataError(f"{file} is not an intact {kind} file ({error})")


def _parts(text_field: str, root: str) -> list[str]:
    rest = text_field.removeprefix(root).removeprefix(".")
    return rest.split(".") if rest else []


def _has(kind: Any, parts: list[str]) -> bool:
    """Say whether a type has a nested field; lists are looked into."""
    import pyarrow.types as types

    while types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    if not parts:
        return True
    return types.is_struct(kind) and kind.get_field_index(parts[0]) >= 0 and _has(kind.field(parts[0]).type, parts[1:])


def _leaves(schema: Any) -> Iterator[str]:
    """Yield the names of columns, and of the fields nested in them."""
    import pyarrow.types as types

    def below(name: str, kind: Any) -> Iterator[str]:
        if types.is_struct(kind):
            for number in range(kind.num_fields):
                inner = kind.field(number)
                yield from below(f"{name}.{inner.name}", inner.type)
        else:
            yield name

    for column in schema:
        yield from below(column.name, column.type)


def _narrow(values: Any, parts: list[str]) -> tuple[Any, str]:
    """Go down through structures towards a field; returns the values reached, and what is left of the path."""
    import pyarrow.compute as pc
    import pyarrow.types as types

    while parts and types.is_struct(values.type):
        values = pc.struct_field(values, parts.pop(0))
    return values, ".".join(parts)


def _cell(value: Any, rest: str, place: str, reading: Reading, allowance: Allowance) -> Record:
    value = getattr(value, "value", value) if hasattr(value, "dictionary") else value  # what the row refers to
    # taken from the buffer as bytes: pyarrow writes and reads strings without checking their UTF-8
    content = value.as_buffer() if hasattr(value, "as_buffer") and value.is_valid else None
    if content is not None:
        allowance.take(content.size)
        if content.size > reading.record_bytes:
            return Oversized(place)
        return as_text(content.to_pybytes(), place, reading.encodings)
    items = getattr(value, "values", None)
    if value.is_valid and items is not None and hasattr(items, "nbytes"):
        allowance.take(items.nbytes)
        if items.nbytes > reading.record_bytes:
            return Oversized(place)
    try:
        found = value.as_py()
    except UnicodeDecodeError as error:
        return Unreadable(place, f"invalid UTF-8 at byte {error.start} of an item")
    found = find(found, rest) if rest and found is not None else found
    return Unreadable(place, f"no field {rest!r}") if found is MISSING else as_text(found, place, reading.encodings)
