"""What the formats of Arrow have in common: a column of values that hold text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from longcat.corpus.readers.format import Oversized, Reading, Record, as_text
from longcat.errors import DataError
from longcat.unpacking import Allowance

Columns = Iterator[tuple[int, Any]]
"""Parts of a column, each with the number of its first row."""


def column_records(
    path: Path, reading: Reading, kind: str, open_columns: Callable[[IO[bytes]], Columns]
) -> Iterator[Record]:
    """Read the values of a column.

    Args:
        path: the file.
        reading: how text is taken from values.
        kind: the format's name, for messages.
        open_columns: reads the column from the open file.

    Raises:
        DataError: the file is damaged, or its values have far more bytes than it has.
    """
    import pyarrow as pa

    try:
        with path.open("rb") as stream:
            allowance = Allowance(str(path), lambda: os.fstat(stream.fileno()).st_size)
            for first, column in open_columns(stream):
                for row, value in enumerate(column, start=first):
                    yield _cell(value, f"{path}, row {row}", reading, allowance)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise damaged(path, kind, error) from None


def check_column(path: Path, text_field: str, names: list[str]) -> None:
    """Raise a `DataError` if a file has no column of this name."""
    if text_field not in names:
        raise DataError(
            f"{path} has no column {text_field!r}; there are: {', '.join(names) or 'none'} "
            "(choose one with the source's `text_field`)"
        )


def damaged(path: Path, kind: str, error: Exception) -> DataError:
    """Make the error of a file that Arrow cannot read."""
    return DataError(f"{path} is not an intact {kind} file ({error})")


def _cell(value: Any, place: str, reading: Reading, allowance: Allowance) -> Record:
    value = getattr(value, "value", value) if hasattr(value, "dictionary") else value  # what the row refers to
    # taken from the buffer as bytes: pyarrow writes and reads strings without checking their UTF-8
    content = value.as_buffer() if hasattr(value, "as_buffer") and value.is_valid else None
    if content is not None:
        allowance.take(content.size)
        if content.size > reading.record_bytes:
            return Oversized(place)
    return as_text(value.as_py() if content is None else content.to_pybytes(), place, reading.encodings)
