"""Parquet: a record is a row; a large file is divided by its row groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from longcat.corpus.readers.columns import Columns, check_column, column_records, damaged
from longcat.corpus.readers.format import File, Format, Reading, Record, Slice

_BATCH_ROWS = 64


def _records(file: File, reading: Reading, begin: int, end: int | None) -> Iterator[Record]:
    import pyarrow.parquet as pq

    def columns(stream: IO[bytes]) -> Columns:
        with pq.ParquetFile(stream) as opened:
            root = check_column(file, reading.text_field, opened.schema_arrow)
            groups = range(begin, opened.num_row_groups if end is None else end)
            row = sum(opened.metadata.row_group(group).num_rows for group in range(begin))
            for batch in opened.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups, columns=[root]):
                yield row, root, batch.column(root)
                row += batch.num_rows

    return column_records(file, reading, "parquet", columns)


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
