import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.readers import Oversized, Reading, Unreadable, read_file, split_file
from longcat.corpus.readers.json import split_values
from longcat.errors import DataError

OBJECTS = [{"text": 'a "b" [c] {d} \\ e', "n": [{"x": {}}]}, {"text": "零专家\n"}, {"n": {"text": 1}, "text": ""}]
TEXTS = [item["text"] for item in OBJECTS]


def read(path, field="text", encodings=("detect",), limit=1 << 24):
    return list(read_file(path, Reading(field, encodings, limit)))


SHAPES = {
    "lines": "\n".join(map(json.dumps, OBJECTS)),
    "blank line first": "\n  \n" + "\n".join(map(json.dumps, OBJECTS)),
    "list": json.dumps(OBJECTS, ensure_ascii=False),
    "pretty list": json.dumps(OBJECTS, indent=2, ensure_ascii=False),
    "pretty objects": "\n".join(json.dumps(item, indent=1) for item in OBJECTS),
    "list of lines": "[\n" + ",\n".join(map(json.dumps, OBJECTS)) + "\n]\n",
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_lists_and_objects_over_several_lines(tmp_path, shape, encoding):
    path = tmp_path / "a.json"
    path.write_bytes(SHAPES[shape].encode(encoding))
    assert read(path) == TEXTS
    parts = split_file(path, path.stat().st_size, 40)
    pieces = [read_file(path, Reading("text", ["detect"], 1000), part.begin, part.end) for part in parts]
    assert [record for piece in pieces for record in piece] == TEXTS


def test_a_list_in_an_encoding_whose_characters_hold_brackets(tmp_path):
    path = tmp_path / "a.json"
    text = "ソフトウェアの表示、構成、能力、十分な予定を確認してください。" * 2
    path.write_bytes(json.dumps([{"text": text}], ensure_ascii=False).encode("shift_jis"))
    assert read(path) == [text]
    assert read(path, encodings=["shift_jis"]) == [text]


def test_a_list_of_one_object(tmp_path):
    path = tmp_path / "a.json"
    for content in ('{"text": "one"}', '{\n"text": "one"\n}', '[{"text": "one"}]'):
        path.write_text(content)
        assert read(path) == ["one"]
    for empty in ("", "[]", " \n"):
        path.write_text(empty)
        assert read(path) == []


def test_bad_and_long_objects_are_counted(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps([{"text": "a"}, {"body": 1}, ["text"], {"text": "x" * 2000}])[:-1] + ', {"text" "b"}, {"text": "c"}]'
    )
    first, missing, other, long, broken, last = read(path, limit=1000)
    assert (first, last) == ("a", "c")
    assert missing == Unreadable(f"{path}, item 2", "no field 'text'; there are: body")
    assert other.reason == "expected a JSON object, found list"
    assert isinstance(long, Oversized)
    assert "broken JSON" in broken.reason
    path.write_text('{"text": "a"}\n{"text": "cut\n{"text": "b"}\n')
    assert [type(record) for record in read(path)] == [str, Unreadable, str]
    path.write_text('{"text": "cut\n{"text": "b"}\n')
    assert [type(record) for record in read(path)] == [Unreadable, str]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"text": "a"}, {"text": ', "is cut off"),
        ('[{"text": "a"}', "is cut off"),
        ('{\n"text": "a"', "is cut off"),
        ('["a", "b"]', "there is a string outside"),
        ("[1, 2]", "there is '1, 2' between"),
        ('[{"text": "a"}] and more', "there is 'and more' between"),
        ('[{"text": "a"}]]', "closes more than it opens"),
    ],
)
def test_what_is_no_list_of_objects_is_refused(tmp_path, content, reason):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"a\.json.*{reason}"):
        read(path)


values = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('ab"\\[]{},专\n'), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=3), values, max_size=3), max_size=4),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
)
def test_values_do_not_depend_on_the_pieces(objects, size, ascii_only, as_list):
    content = (
        json.dumps(objects, ensure_ascii=ascii_only) if as_list else " ".join(json.dumps(item) for item in objects)
    )
    packed = content.encode()
    pieces = [packed[place : place + size] for place in range(0, len(packed), size)]
    assert [json.loads(value) for value in split_values(pieces, 10_000, "a")] == objects
