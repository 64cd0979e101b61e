"""Parquet and Arrow's stream format."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longcat.corpus.readers import Reading, Unreadable, read_file
from longcat.errors import DataError

TEXTS = ["one\ntwo", "零专家", "x" * 3_000_000, "last"]


def read(path, field="text", encodings=("utf-8",), limit=1 << 24):
    return list(read_file(path, Reading(field, encodings, limit)))


def test_arrow_files_of_datasets(tmp_path):
    datasets.Dataset.from_dict({"text": TEXTS, "n": range(len(TEXTS))}).save_to_disk(tmp_path / "saved")
    [path] = (tmp_path / "saved").glob("*.arrow")
    assert read(path) == TEXTS
    with pytest.raises(DataError, match="no column 'body'; there are: text, n"):
        read(path, "body")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="not an intact arrow file"):
        read(path)


def test_parquet_of_strings_and_bytes(tmp_path):
    for kind in (pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())):
        path = tmp_path / "corpus.parquet"
        pq.write_table(pa.table({"body": pa.array(["a", "专", None], kind), "n": [1, 2, 3]}), path)
        assert read(path, "body") == ["a", "专", Unreadable(f"{path}, row 2", "the text is null, not a string")]


def test_parquet_with_invalid_utf8_in_a_string_column(tmp_path):
    path = tmp_path / "corpus.parquet"
    column = pa.array([b"good", b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"text": column}), path)
    assert read(path) == ["good", Unreadable(f"{path}, row 1", "invalid UTF-8 at byte 0")]


def test_parquet_problems(tmp_path):
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"body": ["a" * 1000] * 1000}), path)
    with pytest.raises(DataError, match="no column 'text'; there are: body"):
        read(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not an intact parquet file"):
        read(path, "body")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="not an intact parquet file"):
        read(path, "body")
