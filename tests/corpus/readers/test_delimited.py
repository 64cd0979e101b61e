import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.readers import Oversized, Reading, Unreadable, read_file
from longcat.corpus.readers.delimited import split_rows
from longcat.errors import DataError


def read(path, field="text", encodings=("detect",), limit=1 << 24):
    return list(read_file(path, Reading(field, encodings, limit)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_rows_of_a_table(tmp_path, encoding, newline, suffix, delimiter):
    path = tmp_path / f"a{suffix}"
    texts = ["您的外卖订单已经送达，请及时取餐，谢谢", 'he said "no",\tthen\nleft', "", "5'' x", "last"]
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=newline)
    writer.writerows([["id", "text", "other"], *([n, text, "x"] for n, text in enumerate(texts))])
    path.write_bytes(stream.getvalue().encode(encoding))
    assert read(path) == texts


def test_a_mark_within_a_field_is_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('n,text\n1,a 5" screen\n2,b""c\n\n3,d\n')
    assert read(path) == ['a 5" screen', 'b""c', "d"]


def test_bad_rows_are_counted_with_their_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'n,text\n1,"two\nlines"\n2\n3,"a"b\n4,\xff\n5,' + b"x" * 2000 + b"\n6,last")
    first, short, broken, bytes_, long, last = read(path, limit=1000)
    assert (first, last) == ("two\nlines", "last")
    assert short == Unreadable(f"{path}, line 4", "1 fields, where the header has 2")
    assert broken.place == f"{path}, line 5"
    assert "invalid UTF-8" in bytes_.reason
    assert long == Oversized(f"{path}, line 7")


def test_what_is_no_table_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("n,body\n1,a\n")
    with pytest.raises(DataError, match=r"a\.csv has no column 'text' in its first line; there are: n, body"):
        read(path)
    path.write_text('text\none\n"two\nthree\n')
    with pytest.raises(DataError, match=r"a\.csv, line 3: a quotation mark opens, and none closes"):
        read(path)
    path.write_text("")
    assert read(path) == []


@given(
    st.lists(st.lists(st.text(st.sampled_from('a",\n专'), max_size=5), min_size=2, max_size=2), max_size=5),
    st.integers(1, 7),
)
def test_rows_do_not_depend_on_the_pieces(rows, size):
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    content = stream.getvalue().encode()
    pieces = [content[place : place + size] for place in range(0, len(content), size)]
    found = [row for _, row in split_rows(pieces, b",", 1000, "a")]
    assert [next(csv.reader([row.decode()])) for row in found] == rows
