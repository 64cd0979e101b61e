"""Parquet: a record is a row; a large file is divided by its row groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from longcat.corpus.readers.columns import Columns, check_column, column_records, damaged
from longcat.corpus.readers.format import Format, Reading, Record, Slice
from longcat.unpacking import Allowance

_BATCH_ROWS = 64
_DICTIONARY_BYTES, _DICTIONARY_RATIO = 4 << 20, 30
"""What writers keep far below: packed bytes of a dictionary, and unpacked ones per packed byte of a column with one."""


def _records(path: Path, reading: Reading, begin: int, end: int | None) -> Iterator[Record]:
    import pyarrow.parquet as pq

    def columns(stream: IO[bytes]) -> Columns:
        metadata = pq.read_metadata(stream)
        groups = range(begin, metadata.num_row_groups if end is None else end)
        texts = [_column(metadata.row_group(group), reading.text_field) for group in groups]
        for text in texts:
            if text is not None:
                _check_size(path, text)
        # one long value that many rows refer to would be copied for each of them
        shared = [reading.text_field] if any(text is not None and _is_shared(text) for text in texts) else None
        with pq.ParquetFile(stream, metadata=metadata, read_dictionary=shared) as file:
            check_column(path, reading.text_field, file.schema_arrow.names)
            row = sum(file.metadata.row_group(group).num_rows for group in range(begin))
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups, columns=[reading.text_field]):
                yield row, batch.column(0)
                row += batch.num_rows

    return column_records(path, reading, "parquet", columns)


def _column(group: Any, name: str) -> Any:
    """Return the metadata of a row group's column; None if there is none, or if its values have parts."""
    columns = (group.column(place) for place in range(group.num_columns))
    return next((column for column in columns if column.path_in_schema == name), None)


def _check_size(path: Path, column: Any) -> None:
    """Raise a `DataError` if a column says that its pages unpack to far more than text does."""
    Allowance(str(path), lambda: int(column.total_compressed_size)).take(int(column.total_uncompressed_size))


def _is_shared(column: Any) -> bool:
    """Whether rows may refer to values of a dictionary that are far longer than dictionaries are made for."""
    if not column.has_dictionary_page:
        return False
    packed = column.data_page_offset - (column.dictionary_page_offset or 0)
    return (
        not 0 < packed <= _DICTIONARY_BYTES
        or column.total_uncompressed_size > _DICTIONARY_RATIO * column.total_compressed_size
    )


def _split(path: Path, size: int, block_bytes: int) -> Iterator[Slice]:
    """Divide a file into runs of row groups; their sizes are those of the content before compression."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, "parquet", error) from None
    begin = filled = 0
    for group in range(metadata.num_row_groups):
        filled += metadata.row_group(group).total_byte_size
        if filled >= block_bytes or group == metadata.num_row_groups - 1:
            yield Slice(begin, group + 1, filled)
            begin, filled = group + 1, 0


FORMAT = Format((".parquet",), _records, _split)
