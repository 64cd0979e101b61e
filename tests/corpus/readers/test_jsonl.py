import gzip
import json
import re

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.readers import Reading, Unreadable, read_file
from longcat.corpus.readers.jsonl import json_lines
from longcat.corpus.readers.lines import split_lines
from longcat.errors import DataError

TEXTS = ["one\ntwo", "零专家", "x" * 3_000_000, "last"]
JSONL = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in TEXTS).encode()


def read(path, field="text", encodings=("utf-8",), limit=1 << 24):
    return list(read_file(path, Reading(field, encodings, limit)))


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
    assert list(split_lines(pieces, 1000)) == lines_of(b"".join(pieces))


@given(st.lists(short_bytes), st.integers(0, 5))
def test_longer_lines_are_named_but_not_held(pieces, limit):
    expected = [None if len(line) > limit else line for line in lines_of(b"".join(pieces))]
    assert list(split_lines(pieces, limit)) == expected


@given(short_bytes.filter(bool), st.integers(1, 7), st.integers(1, 4))
def test_every_line_is_in_the_range_where_it_begins(content, size, chunk):
    found = []
    for begin in range(0, len(content), size):
        rest = content[max(0, begin - 1) :]
        chunks = [rest[place : place + chunk] for place in range(0, len(rest), chunk)]
        found += split_lines(chunks, 1000, begin, min(begin + size, len(content)))
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
        for record in read_file(path, Reading("text", ["utf-8"], 1000), begin, begin + 50)
    ]
    assert [record for record in found if isinstance(record, str)] == ["x" * n for n in range(30) if n != 17]
    assert [record.place for record in found if isinstance(record, Unreadable)] == [f"{path}, line 18"]


def test_other_encodings_are_tried_in_order(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes('{"text": "零专家"}\n'.encode() + '{"text": "零专家"}\n'.encode("gb18030") + b'{"text": "\xff"}\n')
    chinese, other, bad = read(path, encodings=["utf-8", "gb18030"])
    assert chinese == other == "零专家"
    assert "invalid UTF-8 or GB18030" in bad.reason


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


def test_json_lines_pass_over_what_holds_nothing(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"q": "\xe4\xb8\x93"}\r\n\n  \n[1]')
    assert list(json_lines(path)) == [{"q": "专"}, [1]]
    for broken in (b'{"q"', b'"\xff"', b"[" * 100_000):
        path.write_bytes(b'\xef\xbb\xbf\n{"q": 1}\n' + broken)
        with pytest.raises(DataError, match=f"{path}:3: broken JSON"):
            list(json_lines(path))
