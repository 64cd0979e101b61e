"""Parquet and Arrow's two formats."""

import json

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from longcat.corpus.readers import Oversized, Reading, Unreadable, read_file
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


def test_arrow_file_format_and_feather(tmp_path):
    table = pa.table({"text": TEXTS})
    for name in ("a.arrow", "a.feather"):
        path = tmp_path / name
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
        assert read(path) == TEXTS
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(DataError, match="not an intact arrow file"):
            read(path)
    pa.feather.write_feather(table, tmp_path / "b.feather", compression="zstd")
    assert read(tmp_path / "b.feather") == TEXTS


NESTED = [
    {"data": {"text": "a", "n": 1}, "lines": ["x", "专"], "pages": [{"t": "p"}, {"t": "q"}], "a.b": "dots"},
    {"data": {"text": None, "n": 1}, "lines": [], "pages": [], "a.b": "more"},
    {"data": None, "lines": None, "pages": None, "a.b": None},
]
FOUND = {"data.text": ["a"], "lines": ["x\n专", ""], "pages.t": ["p\nq", ""], "a.b": ["dots", "more"]}


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather", ".jsonl"])
@pytest.mark.parametrize("field", FOUND)
def test_nested_fields_and_lists(tmp_path, suffix, field):
    path = tmp_path / f"a{suffix}"
    table = pa.Table.from_pylist(NESTED)
    if suffix == ".parquet":
        pq.write_table(table, path)
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, NESTED)))
    else:
        with (pa.ipc.new_stream if suffix == ".arrow" else pa.ipc.new_file)(path, table.schema) as writer:
            writer.write_table(table)
    *texts, last = read(path, field)
    assert [text for text in texts if isinstance(text, str)] == FOUND[field]
    assert isinstance(last, Unreadable)
    absent = f"{field}.absent"
    if suffix == ".jsonl":
        assert "no field" in read(path, absent)[0].reason
    else:
        with pytest.raises(DataError, match=r"no column .*absent'; there are: data\.text, data\.n, lines, pages, a\.b"):
            read(path, absent)


def test_lists_beyond_the_limit_and_with_wrong_bytes(tmp_path):
    path = tmp_path / "a.parquet"
    wrong = pa.ListArray.from_arrays([0, 2], pa.array([b"good", b"\xff"]).view(pa.string()))
    pq.write_table(pa.table({"text": pa.chunked_array([pa.array([["x" * 600, "y" * 600]]), wrong])}), path)
    long, bad = read(path, limit=1000)
    assert isinstance(long, Oversized)
    assert isinstance(bad, Unreadable)


def test_conversations_of_both_names(tmp_path):
    talk = [
        {"messages": [{"role": "user", "content": "有外卖吗"}, {"role": "assistant", "content": "有，十分钟到"}]},
        {"messages": [{"role": "user", "content": None}]},
    ]
    expected = "user: 有外卖吗\n\nassistant: 有，十分钟到"
    pq.write_table(pa.Table.from_pylist(talk), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, talk)))
    for name in ("a.parquet", "a.jsonl"):
        text, bad = read(tmp_path / name, "messages")
        assert text == expected
        assert bad.reason == "item 1 of the text's list: the text is null, not a string"
    shared = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
    parts = {
        "conversations": [
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
        ]
    }
    (tmp_path / "b.jsonl").write_text(json.dumps(shared) + "\n" + json.dumps(parts))
    assert read(tmp_path / "b.jsonl", "conversations") == ["human: hi\n\ngpt: hello", "user: one\ntwo"]


def test_parquet_that_says_it_unpacks_to_what_no_text_does(tmp_path):
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"text": ["a" * 70_000_000]}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"bomb\.parquet unpacks to more than 250 times its size, as no text does"):
        read(path)


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_long_value_that_many_rows_share_is_held_once(tmp_path, kind):
    path, rows = tmp_path / "bomb.parquet", 60
    with pq.ParquetWriter(
        path, pa.schema([("text", kind)]), compression="zstd", dictionary_pagesize_limit=1 << 30
    ) as writer:
        writer.write_table(pa.table({"text": pa.array(["a" * 4_000_000] * rows).cast(kind)}))
    records = read_file(path, Reading("text", ("utf-8",), 1000))
    before = pa.total_allocated_bytes()
    assert next(records) == Oversized(f"{path}, row 0")
    assert pa.total_allocated_bytes() - before < 30_000_000  # as strings of their own, 240 MB
    with pytest.raises(DataError, match="more than 250 times its size"):
        list(records)


def test_a_compressed_arrow_file_that_becomes_what_no_text_does(tmp_path):
    path, schema = tmp_path / "bomb.arrow", pa.schema([("text", pa.string())])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_stream(stream, schema, options=options) as writer:
        for _ in range(20):
            writer.write_batch(pa.record_batch({"text": ["a" * 4_000_000]}))
    with pytest.raises(DataError, match="more than 250 times its size"):
        read(path)


def test_text_that_repeats_itself_is_read(tmp_path):
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": ["the same again"] * 100_000}), path, compression="zstd")
    assert read(path) == ["the same again"] * 100_000
