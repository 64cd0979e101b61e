"""Personal data in text, replaced by its kind: `<email>`, `<phone>`, `<national_id>`, `<address>`.

Patterns find what is written in the usual ways; they do not understand text. Mobile numbers and addresses are those of
mainland China, as in orders and deliveries; other phone numbers are found where they begin with + and a country.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from longcat.config import PersonalData

_HAN = "\u4e00-\u9fff"
_EMAIL = re.compile(
    r"(?<![\w.+/-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+(?!(?:png|jpe?g|gif|webp|svg)\b)[A-Za-z]{2,24}(?![A-Za-z])",
    re.ASCII,
)
_MOBILE = r"(?:(?:\+|00)?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}"
_LANDLINE = r"\(?0\d{2,3}\)?[- ]\d{7,8}(?:-\d{1,5})?"
_INTERNATIONAL = r"\+\d{1,3}(?:[- .]?\(?\d{1,4}\)?){2,5}"
_PHONE = re.compile(rf"(?<![\w+.])(?:{_MOBILE}|{_LANDLINE}|{_INTERNATIONAL})(?![\d])", re.ASCII)
_NATIONAL_ID = re.compile(
    r"(?<!\w)[1-9]\d{5}(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])\d{3}[\dXx](?!\w)", re.ASCII
)
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ADDRESS = re.compile(
    rf"(?:[{_HAN}]{{2,7}}(?:省|自治区|市))?(?:[{_HAN}]{{1,7}}(?:市|区|县|镇|乡))+"
    rf"[{_HAN}]{{1,12}}?(?:路|街|道|巷|弄|胡同|村)[{_HAN}\d]{{0,6}}?\d{{1,5}}(?:号|弄)"
    rf"(?:[{_HAN}A-Za-z\d#-]{{0,12}}?(?:号楼|栋|幢|座|单元|层|楼|室))*"
)


def _is_phone(text: str) -> bool:
    return 8 <= sum(map(str.isdigit, text)) <= 15


def _is_national_id(text: str) -> bool:
    """Check whether the last character is the check digit of GB 11643-1999."""
    total = sum(int(digit) * weight for digit, weight in zip(text, _ID_WEIGHTS, strict=False))
    return "10X98765432"[total % 11] == text[-1].upper()


_KINDS: dict[PersonalData, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (_EMAIL, lambda text: True),
    "national_id": (_NATIONAL_ID, _is_national_id),  # before phones: it contains their digits
    "phone": (_PHONE, _is_phone),
    "address": (_ADDRESS, lambda text: True),
}


def mask(text: str, kinds: list[PersonalData], counts: Counter[str]) -> str:
    """Replace personal data of some kinds, and count what was replaced."""
    for kind, (pattern, is_one) in _KINDS.items():
        if kind not in kinds:
            continue

        def replace(match: re.Match[str], kind: str = kind, is_one: Callable[[str], bool] = is_one) -> str:
            if not is_one(match[0]):
                return match[0]
            counts[kind] += 1
            return f"<{kind}>"

        text = pattern.sub(replace, text)
    return text
