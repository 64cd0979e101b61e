"""Manual pages of sections 1 to 8: a file is one document, the prose of the page."""

from __future__ import annotations

import re

from longcat.corpus.readers.document import document_format
from longcat.corpus.readers.encoding import decode
from longcat.corpus.readers.format import File, Reading, Record
from longcat.corpus.readers.prose import close_gaps

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
    """Take the prose from a manual page (macros of man, the usual ones of mdoc) without tables and equations."""
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
    joined = close_gaps(joined)
    joined = _FILLED.sub(" ", joined).replace(_KEPT, "\n")
    return close_gaps(joined)


def _text(content: bytes, file: File, reading: Reading) -> Record:
    text = decode(content, str(file), reading.encodings)
    return man_text(text) if isinstance(text, str) else text


FORMAT = document_format(tuple(f".{section}" for section in range(1, 9)), _text)
