"""Prose out of HTML and of manual pages: what a reader sees, paragraphs apart, without navigation and scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator

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
_GAPS = re.compile(r"[ \t]*\n[ \t]*(?:\n[ \t]*)+")


def html_text(content: bytes) -> str:
    """The prose of an HTML document, in the encoding that it declares (UTF-8 if none).

    Raises:
        ValueError: it has no element, or an encoding that its bytes do not have.
    """
    from lxml import etree, html

    try:
        parser = html.HTMLParser(encoding=_declared(content))
        root = html.document_fromstring(content, parser=parser)
    except (etree.LxmlError, LookupError) as error:
        raise ValueError(str(error) or "no HTML") from None
    return _GAPS.sub("\n\n", "".join(_seen(root))).strip()


def _declared(content: bytes) -> str:
    found = re.search(rb"""(?:charset|encoding)\s*=\s*["']?([\w.:-]+)""", content[:2048])
    name = found[1].decode() if found else "utf-8"
    content.decode(name)
    return name


def _seen(root: object) -> Iterator[str]:
    """Pieces of text in their order. A walk without recursion: documents may be nested deeply."""
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


_ESCAPES = (
    (re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)|\\s[-+]?\d|\\[&|^/,:%c]|\\\"[^\n]*"), ""),
    (re.compile(r"\\\((?:bu|em|en|hy|mi)|\\\[(?:bu|em|en|hy|mi)\]"), "-"),
    (re.compile(r"\\\((?:aq|oq|cq)|\\\[(?:aq|oq|cq)\]"), "'"),
    (re.compile(r"\\\((?:lq|rq|dq)|\\\[(?:lq|rq|dq)\]"), '"'),
    (re.compile(r"\\\*?(?:\(..|\[[^\]]*\])|\\[hvwkolLD]'[^']*'|\\n(?:\(..|.)|\\\*."), ""),
    (re.compile(r"\\[ ~0]"), " "),
    (re.compile(r"\\e|\\\\"), r"\\"),
    (re.compile(r"\\(.)"), r"\1"),
)
_KEPT = "\v"  # a line end that filling does not take away
_FILLED = re.compile(r"(?<![\n\v])[ \t]*\n[ \t]*(?!\n)")
_BREAKS = {
    "PP", "LP", "P", "IP", "TP", "HP", "SH", "SS", "Sh", "Ss", "Pp", "sp", "br", "nf", "fi", "RS", "RE", "It", "Bl",
    "El", "EX", "EE", "TQ",
}  # fmt: skip
_FONTS = {
    "B", "I", "BI", "IB", "BR", "RB", "IR", "RI", "SM", "SB", "R", "Nm", "Fl", "Ar", "Cm", "Pa", "Em", "Sy", "Li",
    "Dq", "Sq", "Ql", "Op", "Xr", "Nd",
}  # fmt: skip
_HEADS = {"SH", "SS", "Sh", "Ss", "IP"}


def man_text(text: str) -> str:
    """The prose of a manual page (macros of man and the usual ones of mdoc); tables and equations are left out."""
    lines: list[str] = []
    skipped = None  # the macro that ends what is left out
    line_end = "\n"
    for line in text.split("\n"):
        macro, _, rest = line[1:].strip().partition(" ") if line[:1] in (".", "'") else ("", "", line)
        if skipped:
            skipped = None if macro == skipped else skipped
        elif macro in ("TS", "EQ", "de", "ig"):
            skipped = {"TS": "TE", "EQ": "EN"}.get(macro, ".")
        elif line[:1] not in (".", "'"):
            lines.append(line + line_end)
        elif macro in _BREAKS:
            line_end = {"nf": _KEPT, "EX": _KEPT, "fi": "\n", "EE": "\n"}.get(macro, line_end)
            lines.append(f"\n\n{rest}\n\n".replace('"', "") if macro in _HEADS else "\n\n")
        elif macro in _FONTS:
            lines.append(rest.replace('" "', " ").replace('"', "") + line_end)
    joined = "".join(lines)
    for pattern, replacement in _ESCAPES:
        joined = pattern.sub(replacement, joined)
    joined = _GAPS.sub("\n\n", joined)
    joined = _FILLED.sub(" ", joined).replace(_KEPT, "\n")
    return _GAPS.sub("\n\n", joined).strip()
