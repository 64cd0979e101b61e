"""Cleaning of one document: its text in a normal form, or the reason why it is left out."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

# C0 and C1 without tab and the two newline characters, and DEL. U+0085 (a newline of EBCDIC) goes with them.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Dropped:
    """A document that is left out."""

    reason: str
    """`mojibake`, `empty`, `too_short`, `too_long`, `language`, `quality`, `contaminated`, or the name of a filter."""


def clean(text: str, min_characters: int, max_characters: int) -> str | Dropped:
    """Normalise a document, then check its length in characters.

    Control characters go first, so that what they separated can become one newline or one composed character; then
    byte-order marks at the beginning; CR LF and CR become LF; the result is put into NFC. Applying it twice changes
    nothing.
    """
    if _CONTROLS.search(text):
        text = _CONTROLS.sub("", text)
    text = text.lstrip("\ufeff")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = unicodedata.normalize("NFC", text)
    if not text or text.isspace():
        return Dropped("empty")
    if len(text) < min_characters:
        return Dropped("too_short")
    return text if len(text) <= max_characters else Dropped("too_long")


def repair(text: str) -> str:
    """Undo a wrong decoding with ftfy's `fix_encoding`, where the text shows signs of one."""
    import ftfy

    return ftfy.fix_encoding(text)
