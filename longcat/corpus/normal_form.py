"""The forms in which texts are compared: what copies of one text differ in does not count.

Decontamination compares the normal form, in which every number counts. Near-duplicates compare the form without numbers,
unless numbers are what the text is about: orders, price lists and sums that differ in nothing else are not the same text.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import numpy as np

_NUMBER = re.compile(r"\d+(?:[. ]+\d+)*")
_MOST_NUMBERS = 0.1
_LETTER, _DIGIT, _MARK, _INVISIBLE = range(4)
_LAST = 0x20000


def normal_form(text: str) -> str:
    """Return a text in NFKC without case, marks and invisible characters.

    Full-width and half-width characters are the same, and so are kinds of quotation marks, dashes and white space. A mark
    between two digits is a point, so that a date or a price stays one number. Traditional and simplified characters stay
    what they are.
    """
    codes = np.frombuffer(unicodedata.normalize("NFKC", text).casefold().encode("utf-32-le"), np.uint32)
    kinds = _kinds()
    kind = kinds[np.minimum(codes, _LAST)]
    visible = kind != _INVISIBLE
    codes, kind = codes[visible], kind[visible]
    mark = kind == _MARK
    between = np.zeros(len(codes), bool)
    between[1:-1] = mark[1:-1] & (kind[:-2] == _DIGIT) & (kind[2:] == _DIGIT)
    plain = np.where(mark, np.where(between, ord("."), ord(" ")), codes).astype(np.uint32)
    return " ".join(plain.tobytes().decode("utf-32-le").split())


def without_numbers(form: str, words: float) -> str:
    """Return a normal form with 0 for each number, or unchanged where at least a tenth of its words are numbers.

    Args:
        form: a text in normal form.
        words: number of its words.
    """
    changed, numbers = _NUMBER.subn("0", form)
    return changed if numbers < _MOST_NUMBERS * words else form


@cache
def _kinds() -> np.ndarray:
    """Return the kind of each character up to `_LAST`, which stands for all ideographs behind it."""
    kinds = np.full(_LAST + 1, _LETTER, np.uint8)
    for code in range(_LAST):
        category = unicodedata.category(chr(code))
        if category[0] in "PS":
            kinds[code] = _MARK
        elif category == "Nd":
            kinds[code] = _DIGIT
        elif category == "Cf":
            kinds[code] = _INVISIBLE
    kinds[0xFE00:0xFE10] = _INVISIBLE  # variation selectors
    return kinds
