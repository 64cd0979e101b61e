"""Text that was decoded wrongly before it came here: replacement characters, and UTF-8 that was read as something else."""

from __future__ import annotations

import re
from functools import cache

_REPLACED = re.compile("\ufffd|ï¿½|锟斤拷")
"""The replacement character, and what its UTF-8 becomes in Latin-1 and in GBK."""
_RUN = re.compile(r"[^\x00-\x7f]{2,}")
_READ_AS = ("cp1252", "latin-1", "gb18030", "cp932", "big5hkscs", "cp949")
"""Encodings that UTF-8 is read as by mistake."""
_RUN_CHARACTERS = 16
"""Characters of a run that are tried; more say nothing new."""
_SMALLEST_RUN = 4
"""Characters of a run from which on UTF-8 by chance is rare."""
_FEWEST_WIDE = 8
"""Characters of Chinese, Japanese or Korean that have to be damaged in a text."""
_ACCENTED = "ÂÃÄÅâ"
"""What two or three bytes of UTF-8 of Latin letters and punctuation begin with, in Latin-1."""
_WIDE = "\u2fff"
"""What is beyond is Chinese, Japanese or Korean."""
MOST_DAMAGED = 1 / 300
"""Fraction of damaged characters above which a text is not usable."""


def is_mojibake(text: str) -> bool:
    """Say whether so much of a text was decoded wrongly that it is not usable.

    Counted are replacement characters, and runs of characters beyond ASCII whose bytes, in an encoding that UTF-8 is
    read as by mistake, are UTF-8: by chance, texts have none of these.
    """
    if text.isascii():
        return False
    most = len(text) * MOST_DAMAGED
    damaged = sum(len(match[0]) for match in _REPLACED.finditer(text))
    if damaged > most:
        return True
    runs = wide_damaged = 0
    for match in _RUN.finditer(text):
        run = match[0]
        runs += len(run)
        if not _was_utf8(run[:_RUN_CHARACTERS]):
            continue
        if max(run) > _WIDE:
            wide_damaged += len(run)
        else:
            damaged += len(run)
    # a phrase of Chinese may be UTF-8 by chance, most of a text is not
    return damaged > most or (
        wide_damaged >= _FEWEST_WIDE and wide_damaged * 3 > runs and damaged + wide_damaged > most
    )


def _was_utf8(run: str) -> bool:
    """Say whether a run of characters is UTF-8 that was read as something else."""
    wide = max(run) > _WIDE
    if len(run) < _SMALLEST_RUN and (wide or run[0] not in _ACCENTED):
        return False
    for encoding in _READ_AS[2:] if wide else _READ_AS[:2]:
        try:
            content = b"".join(map(_byte, run)) if encoding == "cp1252" else run.encode(encoding)
        except UnicodeEncodeError:
            continue
        for cut in range(4) if len(run) >= _SMALLEST_RUN else (0,):  # the last character may be torn
            try:
                if not content[: len(content) - cut].decode().isascii():
                    return True
            except UnicodeDecodeError:
                continue
    return False


@cache
def _byte(character: str) -> bytes:
    """Return a character's byte in Windows-1252, whose five gaps are read as controls by most programs."""
    return character.encode("latin-1") if "\x80" <= character <= "\x9f" else character.encode("cp1252")
