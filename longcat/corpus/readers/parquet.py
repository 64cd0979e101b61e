"""Parquet: a record is a row; a large file is divided by its row groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from longcat.corpus.readers.columns import Columns, check_column, column_records, damaged
from longcat.corpus.readers.format import Format, Reading, Record, Slice

_BATCH_ROWS = 64


def _records(path: Path, reading: Reading, begin: int, end: int | None) -> Iterator[Record]:
    import pyarrow.parquet as pq

    def columns(stream: IO[bytes]) -> Columns:
        with pq.ParquetFile(stream) as file:
            check_column(path, reading.text_field, file.schema_arrow.names)
            groups = range(begin, file.num_row_groups if end is None else end)
            row = sum(file.metadata.row_group(group).num_rows for group in range(begin))
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups, columns=[reading.text_field]):
                yield row, batch.column(0)
                row += batch.num_rows

    return column_records(path, reading, "parquet", columns)


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
