import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.readers.html import html_text

PAGE = """<!doctype html><html><head><title>Not this</title><meta charset="utf-8"><style>p {}</style></head>
<body><nav><a href="/">Home</a></nav><div role="navigation">Elsewhere</div>
<h1>The  harbour<a class="headerlink">¶</a></h1>
<p>Boats <b>come</b> and
go &amp; nobody<!-- not this --> minds.</p><script>alert("no")</script>
<ul><li>first</li><li>second<br>line</li></ul>
<pre>kept
  as it is</pre>
<table><tr><td>a</td><td>b</td></tr></table>清晨的<i>码头</i><footer>Contact</footer></body></html>"""


def test_a_page_is_read_as_prose():
    assert html_text(PAGE.encode()) == (
        "The harbour\n\nBoats come and go & nobody minds.\n\nfirst\n\nsecond\nline\n\nkept\n  as it is\n\na\n\nb\n\n清晨的码头"
    )


def test_the_declared_encoding_counts():
    page = '<html><meta charset="gb18030"><p>零专家</p></html>'
    assert html_text(page.encode("gb18030")) == "零专家"
    with pytest.raises(ValueError, match="utf-8"):
        html_text('<html><meta charset="utf-8"><p>零专家</p></html>'.encode("gb18030"))
    with pytest.raises(ValueError, match="no-such-encoding"):
        html_text(b'<meta charset="no-such-encoding"><p>x</p>')


@pytest.mark.parametrize("content", [b"", b"   ", b"<!-- only this -->"])
def test_what_holds_nothing(content):
    try:
        assert html_text(content) == ""
    except ValueError:
        pass


def test_deep_nesting_is_no_harm():
    assert "x" in html_text(b"<div>" * 200 + b"x" + b"</div>" * 200)


@given(st.text(alphabet=st.sampled_from("<>/ab&;!-\" 'pré零\n"), max_size=200))
def test_any_text_is_read_or_refused(text):
    try:
        assert "\n\n\n" not in html_text(text.encode())
    except ValueError:
        pass
