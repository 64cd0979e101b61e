import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.readers import Oversized, Reading, read_file
from longcat.corpus.readers.manual import man_text
from longcat.errors import DataError

MANUAL = r""".\" a comment
.TH ZIC 8
.SH NAME
zic \- the \fItime zone\fR compiler
.SH 描述
.B zic
reads \*(lqtext\*(rq from
the file
.IR name (5).
.TP
.B \-v
be \s-1LOUD\s0
.TS
tab(;);
l l.
no;table
.TE
.nf
kept
  as it is
.fi
the end
"""


def test_a_manual_page_is_read_as_prose():
    assert man_text(MANUAL) == (
        "NAME\n\nzic - the time zone compiler\n\n描述\n\nzic reads text from the file name (5).\n\n"
        "-v be LOUD\n\nkept\n  as it is\n\nthe end"
    )


@given(st.text(alphabet=st.sampled_from("\\.'\"fBR[](*nTSEab \n零"), max_size=200))
def test_any_manual_page_is_read(text):
    assert "\v" not in man_text(text)


def test_gzipped_pages_are_read_and_bounded(tmp_path):
    page = tmp_path / "zic.8.GZ"
    page.write_bytes(gzip.compress(MANUAL.encode()))
    assert list(read_file(page, Reading("text", ["utf-8"], 10_000))) == [man_text(MANUAL)]
    assert list(read_file(page, Reading("text", ["utf-8"], len(MANUAL.encode()) - 1))) == [Oversized(str(page))]


@pytest.mark.parametrize("damage", [lambda content: content[:-12], lambda content: b"no archive"])
def test_damaged_pages_are_named(tmp_path, damage):
    page = tmp_path / "zic.8.gz"
    page.write_bytes(damage(gzip.compress(MANUAL.encode())))
    with pytest.raises(DataError, match=r"zic\.8\.gz is (cut off|not an intact gzip file)"):
        list(read_file(page, Reading("text", ["utf-8"], 10_000)))
