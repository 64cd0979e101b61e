"""HTML: a file is one document, the prose that a reader of the page sees, without navigation and scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from longcat.corpus.readers.document import document_format
from longcat.corpus.readers.encoding import detect
from longcat.corpus.readers.format import File, Reading, Record, Unreadable
from longcat.corpus.readers.prose import close_gaps

_BLOCKS = {
    "address", "article", "blockquote", "body", "br", "caption", "center", "dd", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "main", "ol", "p", "pre", "section",
    "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul",
}  # fmt: skip
_UNSEEN = {
    "aside", "audio", "button", "canvas", "footer", "form", "head", "header", "iframe", "map", "math", "nav",
    "noscript", "object", "script", "select", "style", "svg", "template", "textarea", "video",
}  # fmt: skip
_SPACE = re.compile(r"\s+")


def html_text(content: bytes) -> str:
    """Take the prose from an HTML document in the encoding that it declares, or that is detected.

    Raises:
        ValueError: it has no element, or an encoding that its bytes do not have.
    """
    from lxml import etree, html

    try:
        parser = html.HTMLParser(encoding=_declared(content))
        root = html.document_fromstring(content, parser=parser)
    except (etree.LxmlError, LookupError) as error:
        raise ValueError(str(error) or "no HTML") from None
    return close_gaps("".join(_seen(root)))


def _declared(content: bytes) -> str:
    declaration = re.search(rb"""(?:charset|encoding)\s*=\s*["']?([\w.:-]+)""", content[:2048])
    name = declaration[1].decode() if declaration else detect(content) or "utf-8"
    content.decode(name)
    return name


def _seen(root: object) -> Iterator[str]:
    """Yield the visible text in document order, without recursion: documents may be nested deeply."""
    from lxml import etree

    unseen = verbatim = 0
    hidden: list[bool] = []
    for event, element in etree.iterwalk(root, events=("start", "end", "comment", "pi")):
        tag = element.tag if isinstance(element.tag, str) else None
        if event == "start":
            hidden.append(tag in _UNSEEN or element.get("role") == "navigation" or element.get("class") == "headerlink")
            unseen += hidden[-1]
            verbatim += tag == "pre"
            if tag in _BLOCKS and not unseen:
                yield "\n\n" if tag != "br" else "\n"
            text = element.text
        else:
            if event == "end":
                if tag in _BLOCKS and not unseen and tag != "br":
                    yield "\n\n"
                unseen -= hidden.pop()
                verbatim -= tag == "pre"
            text = element.tail
        if text and not unseen:
            yield text if verbatim else _SPACE.sub(" ", text)


def _text(content: bytes, file: File, reading: Reading) -> Record:
    try:
        return html_text(content)
    except ValueError as error:
        return Unreadable(str(file), f"no HTML in the encoding it declares ({error})")


FORMAT = document_format((".html", ".htm"), _text)
