"""Arrow's stream format, which `datasets` writes with `save_to_disk`, and its file format, also called Feather: a record is a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from longcat.corpus.readers.columns import Columns, check_column, column_records
from longcat.corpus.readers.format import File, Format, Reading, Record

_MAGIC = b"ARROW1"
"""What the file format begins with; the stream format has no such mark."""


def _records(file: File, reading: Reading, begin: int, end: int | None) -> Iterator[Record]:
    import pyarrow as pa

    def columns(stream: IO[bytes]) -> Columns:
        is_file = stream.read(len(_MAGIC)) == _MAGIC
        stream.seek(0)
        with pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream) as opened:
            root = check_column(file, reading.text_field, opened.schema)
            batches = map(opened.get_batch, range(opened.num_record_batches)) if is_file else opened
            row = 0
            for batch in batches:
                yield row, root, batch
                row += batch.num_rows

    return column_records(file, reading, "arrow", columns)


FORMAT = Format((".arrow", ".feather"), _records, compressible=False)
