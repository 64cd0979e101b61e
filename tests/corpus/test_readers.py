import gzip
import json
import re

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.readers import Oversized, Unreadable, _lines, file_format, read_file
from longcat.errors import DataError

TEXTS = ["one\ntwo", "零专家", "x" * 3_000_000, "last"]
JSONL = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in TEXTS).encode()


def read(path, field="text", encodings=("utf-8",), limit=1 << 24):
    return list(read_file(path, field, list(encodings), limit))


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".jsonl", bytes),
        (".jsonl.gz", gzip.compress),
        (".jsonl.zst", zstandard.compress),
        (".JSONL.ZST", lambda content: zstandard.compress(content[:999]) + zstandard.compress(content[999:])),
    ],
)
def test_lines_of_every_packing(tmp_path, suffix, pack):
    path = tmp_path / f"corpus{suffix}"
    path.write_bytes(pack(JSONL))
    assert read(path) == TEXTS


short_bytes = st.lists(st.sampled_from([b"\n", b"a", b"bc", b""]), max_size=12).map(b"".join)


def lines_of(content):
    expected = content.split(b"\n")
    return expected[:-1] if expected[-1] == b"" else expected


@given(st.lists(short_bytes))
def test_lines_do_not_depend_on_the_pieces(pieces):
    assert list(_lines(pieces, 1000, 0, None)) == lines_of(b"".join(pieces))


@given(st.lists(short_bytes), st.integers(0, 5))
def test_longer_lines_are_named_but_not_held(pieces, limit):
    expected = [None if len(line) > limit else line for line in lines_of(b"".join(pieces))]
    assert list(_lines(pieces, limit, 0, None)) == expected


@given(short_bytes.filter(bool), st.integers(1, 7), st.integers(1, 4))
def test_every_line_is_in_the_range_where_it_begins(content, size, chunk):
    found = []
    for begin in range(0, len(content), size):
        rest = content[max(0, begin - 1) :]
        chunks = [rest[place : place + chunk] for place in range(0, len(rest), chunk)]
        found += _lines(chunks, 1000, begin, min(begin + size, len(content)))
    assert found == lines_of(content)


def test_line_numbers_count_from_the_beginning_of_the_file(tmp_path):
    path = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"text": "x" * n}) for n in range(30)]
    lines[17] = "{"
    content = "\n".join(lines)
    path.write_text(content)
    found = [
        record
        for begin in range(0, len(content), 50)
        for record in read_file(path, "text", ["utf-8"], 1000, begin, begin + 50)
    ]
    assert [record for record in found if isinstance(record, str)] == ["x" * n for n in range(30) if n != 17]
    assert [record.place for record in found if isinstance(record, Unreadable)] == [f"{path}, line 18"]


def test_other_encodings_are_tried_in_order(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes('{"text": "零专家"}\n'.encode() + '{"text": "零专家"}\n'.encode("gb18030") + b'{"text": "\xff"}\n')
    chinese, other, bad = read(path, encodings=["utf-8", "gb18030"])
    assert chinese == other == "零专家"
    assert "invalid UTF-8 or GB18030" in bad.reason


@pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".parquet", ".jsonl.zst"])
def test_oversized_records_are_not_held(tmp_path, suffix):
    path = tmp_path / f"corpus{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": ["x" * 1000, "short"]}), path)
    elif suffix == ".txt":
        path.write_text("x" * 1000)
    else:
        content = json.dumps({"text": "x" * 1000}).encode() + b'\n{"text": "short"}\n'
        path.write_bytes(zstandard.compress(content) if suffix.endswith("zst") else content)
    first, *rest = read(path, limit=900)
    assert isinstance(first, Oversized)
    assert first.place.startswith(str(path))
    assert rest == ([] if suffix == ".txt" else ["short"])


def test_arrow_files_of_datasets(tmp_path):
    datasets.Dataset.from_dict({"text": TEXTS, "n": range(len(TEXTS))}).save_to_disk(tmp_path / "saved")
    [path] = (tmp_path / "saved").glob("*.arrow")
    assert read(path) == TEXTS
    with pytest.raises(DataError, match="no column 'body'; there are: text, n"):
        read(path, "body")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="not an intact arrow file"):
        read(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "broken JSON.*column 10"),
        (b'["text"]', "expected a JSON object, found list"),
        (b'{"txt": "a", "id": 3}', "no field 'text'; there are: txt, id"),
        (b'{"text": null}', "the text is null"),
        (b'{"text": 7}', "the text is int"),
        (b'{"text": "\xff"}', "invalid UTF-8 at byte 10"),
        (rb'{"text": "\ud800"}', "lone surrogate at character 0"),
        (b"[" * 100_000, "unusable JSON|broken JSON"),
    ],
)
def test_bad_line_is_placed_and_the_next_is_read(tmp_path, line, reason):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"text": "first"}\n\n' + line + b'\n{"text": "last"}')
    first, bad, last = read(path)
    assert (first, last) == ("first", "last")
    assert isinstance(bad, Unreadable)
    assert bad.place == f"{path}, line 3"
    assert re.search(reason, bad.reason)


@pytest.mark.parametrize(("suffix", "pack"), [(".jsonl.gz", gzip.compress), (".jsonl.zst", zstandard.compress)])
def test_truncated_and_foreign_archives_are_named(tmp_path, suffix, pack):
    packed = pack(JSONL)
    path = tmp_path / f"corpus{suffix}"
    for share in (0.3, 0.9):
        path.write_bytes(packed[: int(len(packed) * share)])
        with pytest.raises(DataError, match=f"{path} is cut off"):
            read(path)
    path.write_bytes(packed[:-1])
    with pytest.raises(DataError, match=str(path)):
        read(path)
    path.write_bytes(b"this is no archive at all")
    with pytest.raises(DataError, match=f"{path} is not an intact"):
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


def test_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfhello\nworld")
    assert read(path) == ["hello\nworld"]
    path.write_bytes(b"abc\xe9")
    assert read(path) == [Unreadable(str(path), "invalid UTF-8 at byte 3")]


def test_missing_file(tmp_path):
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        with pytest.raises(DataError, match=f"cannot read {tmp_path / name}: No such file"):
            read(tmp_path / name)


def test_python_source_in_its_declared_encoding(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes("# -*- coding: latin-1 -*-\nname = 'é'\n".encode("latin-1"))
    assert list(read(path)) == ["# -*- coding: latin-1 -*-\nname = 'é'\n"]
    for broken in (b"# coding: martian\n", b"x = '\xe9'\n"):
        path.write_bytes(broken)
        [record] = read(path)
        assert isinstance(record, Unreadable)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.JSONL", ".jsonl"), ("a.jsonl.zst", ".jsonl.zst"), ("a.csv", None), ("a.b.txt", ".txt")]
)
def test_format_by_suffix(tmp_path, name, kind):
    assert file_format(tmp_path / name) == kind
