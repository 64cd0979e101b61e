"""Personal data in text, replaced by its kind: `<email>`, `<phone>`, `<national_id>`, `<address>`.

Patterns find what is written in the usual ways; they do not understand text. Mobile numbers and addresses are those of
mainland China, as in orders and deliveries; other phone numbers are found where they begin with + and a country. Full-width
characters are read like half-width ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import date

from longcat.config import PersonalData

_HAN = "\u4e00-\u9fff"
_EMAIL = re.compile(
    r"(?<![\w.+/-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+(?!(?:png|jpe?g|gif|webp|svg)\b)[A-Za-z]{2,24}(?![A-Za-z])",
    re.ASCII,
)
_MOBILE = r"(?:(?:\+|00)?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}"
_LANDLINE = r"(?:0\d{2,3}[- ]|\(0\d{2,3}\)[- ]?)\d{3,4}[- ]?\d{4}(?:-\d{1,5})?"
_INTERNATIONAL = r"\+\d{1,3}(?:[- .]?\(?\d{1,4}\)?){2,5}"
_PHONE = re.compile(rf"(?<![\w+.])(?:{_MOBILE}|{_LANDLINE}|{_INTERNATIONAL})(?![\d])", re.ASCII)
_ORDER_NUMBER = re.compile(
    r"(?:单号|订单|编号|流水号|单|order|order (?:no\.?|number)|#)[ :：#号为是]{0,4}$", re.IGNORECASE
)
_ORDER_WORDS = 16
_NATIONAL_ID = re.compile(
    r"(?<!\w)[1-8]\d{5} ?(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01]) ?\d{3}[\dXx](?!\w)", re.ASCII
)
_PROVINCES = {
    *range(11, 16),
    *range(21, 24),
    *range(31, 38),
    *range(41, 47),
    *range(50, 55),
    *range(61, 66),
    71,
    81,
    82,
    83,
}
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ROAD = rf"[{_HAN}]{{1,12}}?(?:路|街|道|巷|弄|胡同|村)[{_HAN}\d]{{0,6}}?\d{{1,5}}(?:号|弄)"
_ROOM = rf"(?:[{_HAN}A-Za-z\d#-]{{0,12}}?(?:号楼|栋|幢|座|单元|层|楼|室))"
_ESTATE = rf"[{_HAN}]{{2,8}}?(?:小区|花园|公寓|大厦|家园|新村|广场|苑)[A-Za-z\d]{{1,4}}(?:号楼|栋|幢|座|区)"
_ADDRESS = re.compile(
    rf"(?:[{_HAN}]{{2,7}}(?:省|自治区|市))?(?:[{_HAN}]{{1,7}}(?:市|区|县|镇|乡))+{_ROAD}{_ROOM}*"
    rf"|{_ROAD}{_ROOM}+|{_ESTATE}{_ROOM}+"
)
_NUMBERED = re.compile(r"\d(?:号|弄|栋|幢|座|区|层|楼|室)")  # every address has one, and most texts have none
_FULL_WIDTH = re.compile("[０-９Ａ-Ｚａ-ｚ]")
_WIDTHS = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


def _is_phone(found: re.Match[str]) -> bool:
    """Check the number of digits, and that it is not called the number of an order."""
    before = found.string[max(0, found.start() - _ORDER_WORDS) : found.start()]
    return 8 <= sum(map(str.isdigit, found[0])) <= 15 and not _ORDER_NUMBER.search(before)


def _is_national_id(found: re.Match[str]) -> bool:
    """Check province and date of birth, and whether the last character is the check digit of GB 11643-1999."""
    text = found[0].replace(" ", "")
    try:
        date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(text, _ID_WEIGHTS, strict=False))
    return int(text[:2]) in _PROVINCES and "10X98765432"[total % 11] == text[-1].upper()


def _is_what_it_looks_like(found: re.Match[str]) -> bool:
    return True


_KINDS: dict[PersonalData, tuple[re.Pattern[str], Callable[[re.Match[str]], bool]]] = {
    "email": (_EMAIL, _is_what_it_looks_like),
    "national_id": (_NATIONAL_ID, _is_national_id),  # before phones: it contains their digits
    "phone": (_PHONE, _is_phone),
    "address": (_ADDRESS, _is_what_it_looks_like),
}


def mask(text: str, kinds: list[PersonalData], counts: Counter[str]) -> str:
    """Replace personal data of some kinds, and count what was replaced."""
    for kind, (pattern, is_one) in _KINDS.items():
        if kind not in kinds:
            continue
        plain = text.translate(_WIDTHS) if _FULL_WIDTH.search(text) else text  # as long as the text
        if kind == "address" and not _NUMBERED.search(plain):
            continue
        parts, end = [], 0
        for found in pattern.finditer(plain):
            if is_one(found):
                parts += [text[end : found.start()], f"<{kind}>"]
                end = found.end()
        if parts:
            counts[kind] += len(parts) // 2
            text = "".join([*parts, text[end:]])
    return text
