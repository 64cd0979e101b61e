"""Parquet: a record is a row; a large file is divided by its row groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from longcat.corpus.readers.columns import Columns, check_column, column_records, damaged, label_columns
from longcat.corpus.readers.format import File, Format, Reading, Record, Slice
from longcat.unpacking import Allowance

_BATCH_ROWS = 64
_DICTIONARY_BYTES, _DICTIONARY_RATIO = 4 << 20, 30
"""What writers keep far below: packed bytes of a dictionary, and unpacked ones per packed byte of a column with one."""


def _records(file: File, reading: Reading, begin: int, end: int | None) -> Iterator[Record]:
    import pyarrow.parquet as pq

    def columns(stream: IO[bytes]) -> Columns:
        metadata = pq.read_metadata(stream)
        schema = metadata.schema.to_arrow_schema()
        root = check_column(file, reading.text_field, schema)
        labels = label_columns(schema, root)
        groups = range(begin, metadata.num_row_groups if end is None else end)
        texts = [column for group in groups for column in _columns(metadata.row_group(group), root)]
        for column in [
            *texts,
            *(one for group in groups for name in labels for one in _columns(metadata.row_group(group), name)),
        ]:
            _check_size(file, column)
        # one long value that many rows refer to would be copied for each of them
        shared = {text.path_in_schema for text in texts if _is_shared(text)} & {reading.text_field}
        with pq.ParquetFile(stream, metadata=metadata, read_dictionary=list(shared) or None) as opened:
            row = sum(metadata.row_group(group).num_rows for group in range(begin))
            for batch in opened.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups, columns=[root, *labels]):
                yield row, root, batch
                row += batch.num_rows

    return column_records(file, reading, "parquet", columns)


def _columns(group: Any, root: str) -> list[Any]:
    """Return the metadata of a row group's columns that a field, and what is nested in it, are stored in."""
    columns = [group.column(place) for place in range(group.num_columns)]
    return [column for column in columns if f"{column.path_in_schema}.".startswith(f"{root}.")]


def _check_size(file: File, column: Any) -> None:
    """Raise a `DataError` if a column says that its pages unpack to far more than text does."""
    Allowance(str(file), lambda: int(column.total_compressed_size)).take(int(column.total_uncompressed_size))


def _is_shared(column: Any) -> bool:
    """Whether rows may refer to values of a dictionary that are far longer than dictionaries are made for."""
    if not column.has_dictionary_page:
        return False
    packed = column.data_page_offset - (column.dictionary_page_offset or 0)
    return (
        not 0 < packed <= _DICTIONARY_BYTES
        or column.total_uncompressed_size > _DICTIONARY_RATIO * column.total_compressed_size
    )


def _split(file: File, size: int, block_bytes: int) -> Iterator[Slice]:
    """Divide a file into runs of row groups; their sizes are those of the content before compression."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.open("rb") as stream:
            metadata = pq.read_metadata(stream)
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, "parquet", error) from None
    begin = filled = 0
    for group in range(metadata.num_row_groups):
        filled += metadata.row_group(group).total_byte_size
        if filled >= block_bytes or group == metadata.num_row_groups - 1:
            yield Slice(begin, group + 1, filled)
            begin, filled = group + 1, 0


FORMAT = Format((".parquet",), _records, _split, compressible=False)
