"""Checkers: does a text that a model wrote hold the right answer, and no other?

A checker is tolerant of form (full-width characters, case, units, punctuation, spaces, a sentence round the answer) and not
of content: an answer beside another one, or a negated one, is wrong. Numbers are read as digits only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

_CUES = re.compile(r"answer\s*(?:is|:)|答案\s*(?:是|为|:)|答\s*:")
_NUMBER = re.compile(r"(?<![\d.:])-?\d+(?:\.\d+)?(?![\d:])")
_TIME = re.compile(r"(?<![\d:])(\d{1,2})\s*(?::|点|时)\s*(\d{1,2})?(?!\d)\s*(?:分)?\s*(am|pm|a\.m\.|p\.m\.)?")
_AFTERNOON = re.compile(r"(?:下午|晚上|傍晚)\s*$")
_STOP = re.compile(
    r"(取|送|pick(?:s|ed|ing)?(?:[\s-]*up)?|drop(?:s|ped|ping)?(?:[\s-]*off)?|deliver(?:s|ed|ing)?)\s*(?:order|订单|单)?\s*([a-z])(?![a-z])"
)
# of what `_compact` writes, where the apostrophe of "isn't" is a space
_NOT = re.compile(r"(?:\bnot|n t|\bnever|\bneither|不是|并非|不选|没有)\s*(?:the\s+|order\s+)?$")


def is_right(form: str, target: str, choices: Sequence[str], text: str) -> bool:
    """Say whether a generated text gives the right answer.

    What follows the last "answer:" of the text counts, or all of it where there is none; of that, its first line that is not empty.

    Args:
        form: of the answer, one of `longcat.local_services.instance.FORMS`.
        target: the right answer.
        choices: the right answer and wrong ones; names and phrases are looked for among them.
        text: what the model wrote.

    Raises:
        ValueError: there is no such form.
    """
    said = _said(text)
    match form:
        case "money":
            return _numbers(said) == {Decimal(target)}
        case "time":
            return _times(said) == _times(_plain(target))
        case "sequence":
            return _stops(said) == _stops(_plain(target))
        case "name" | "phrase":
            return _named(said, choices) == {_compact(target)}
    raise ValueError(f"there is no form {form!r}")


def _said(text: str) -> str:
    plain = _plain(text)
    cues = list(_CUES.finditer(plain))
    after = plain[cues[-1].end() :] if cues else plain
    return next((line.strip() for line in after.splitlines() if line.strip()), "")


def _plain(text: str) -> str:
    """Return a text in its compatibility form (full-width characters become plain ones) and lower case."""
    return unicodedata.normalize("NFKC", text).lower().replace("：", ":")


def _compact(text: str) -> str:
    """Return the letters and digits of a text, one space between words of letters, none beside Chinese characters."""
    words = re.findall(r"[^\W_]+", _plain(text))
    return re.sub(r"(?<=[^\x00-\x7f]) | (?=[^\x00-\x7f])", "", " ".join(words))


def _numbers(text: str) -> set[Decimal]:
    return {Decimal(number) for number in _NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text))}


def _times(text: str) -> set[int]:
    found = set()
    for match in _TIME.finditer(text):
        hour, minute, half = int(match[1]), int(match[2] or 0), match[3] or ""
        later = half.startswith("p") or _AFTERNOON.search(text[: match.start()])
        if hour == 12 and half.startswith("a"):
            hour = 0
        elif later and hour < 12:
            hour += 12
        found.add(60 * hour + minute)
    return found


def _stops(text: str) -> list[tuple[bool, str]]:
    return [(kind.startswith(("取", "pick")), label) for kind, label in _STOP.findall(text)]


def _whole(words: str) -> str:
    """Return a pattern for words that are no part of longer ones; Chinese ones have no such bounds."""
    left = r"(?<![a-z0-9])" if words[:1].isascii() else ""
    right = r"(?![a-z0-9])" if words[-1:].isascii() else ""
    return f"{left}{re.escape(words)}{right}"


def _named(text: str, choices: Sequence[str]) -> set[str]:
    """Return the choices that a text names, as `_compact` writes them; none if it negates one.

    A first word that all choices share, such as a title, may be left out; a choice within a longer one that is named does not count.
    """
    whole = [_compact(choice) for choice in choices]
    first = {choice.partition(" ")[0] for choice in whole}
    shared = f"{first.pop()} " if len(first) == 1 else ""
    said, found = _compact(text), {}
    for choice in whole:
        short = choice.removeprefix(shared)
        for match in re.finditer(_whole(short), said):
            found[match.span()] = choice
    inner = {a for a in found for b in found if a != b and b[0] <= a[0] and a[1] <= b[1]}
    if any(_NOT.search(said[:begin].removesuffix(shared)) for begin, _ in found):
        return set()
    return {choice for span, choice in found.items() if span not in inner}
