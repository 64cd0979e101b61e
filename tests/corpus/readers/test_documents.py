"""Formats whose files are one document each."""

from longcat.corpus.readers import Reading, Unreadable, read_file


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
