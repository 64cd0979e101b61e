"""Arrow's stream format, which `datasets` writes with `save_to_disk`: a record is a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from longcat.corpus.readers.columns import Columns, check_column, column_records
from longcat.corpus.readers.format import Format, Reading, Record


def _records(path: Path, reading: Reading, begin: int, end: int | None) -> Iterator[Record]:
    import pyarrow as pa

    def columns(stream: IO[bytes]) -> Columns:
        with pa.ipc.open_stream(stream) as batches:
            check_column(path, reading.text_field, batches.schema.names)
            row = 0
            for batch in batches:
                yield row, batch.column(reading.text_field)
                row += batch.num_rows

    return column_records(path, reading, "arrow", columns)


FORMAT = Format((".arrow",), _records)
