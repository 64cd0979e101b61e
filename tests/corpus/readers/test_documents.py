"""Formats whose files are one document each."""

from longcat.corpus.readers import Oversized, Reading, Unreadable, read_file, split_file


def read(path, field="text", encodings=("utf-8",), limit=1 << 24):
    return list(read_file(path, Reading(field, encodings, limit)))


def test_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfhello\nworld")
    assert read(path) == ["hello\nworld"]
    path.write_bytes(b"abc\xe9")
    assert read(path) == [Unreadable(str(path), "invalid UTF-8 at byte 3")]


def test_python_source_in_its_declared_encoding(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes("# -*- coding: latin-1 -*-\nname = 'é'\n".encode("latin-1"))
    assert list(read(path)) == ["# -*- coding: latin-1 -*-\nname = 'é'\n"]
    for broken in (b"# coding: martian\n", b"x = '\xe9'\n"):
        path.write_bytes(broken)
        [record] = read(path)
        assert isinstance(record, Unreadable)


def test_lines_as_documents(tmp_path):
    path = tmp_path / "a.txt"
    content = "one\r\n\n  \n零专家\nlast".encode()
    path.write_bytes(content)
    reading = Reading("text", ["utf-8"], 20, lines=True)
    assert list(read_file(path, reading)) == ["one", "零专家", "last"]
    parts = list(split_file(path, len(content), 5, lines=True))
    assert len(parts) == -(-len(content) // 5)
    assert [r for part in parts for r in read_file(path, reading, part.begin, part.end)] == ["one", "零专家", "last"]
    path.write_bytes(b"one\n\xff\n" + b"x" * 30)
    one, bad, long = read_file(path, reading)
    assert (one, bad, long) == (
        "one",
        Unreadable(f"{path}, line 2", "invalid UTF-8 at byte 0"),
        Oversized(f"{path}, line 3"),
    )
