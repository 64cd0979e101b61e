"""What a reader of printed lines is: the tool, how its lines are told apart, and how one is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from longcat.benchmark.logs.collected import Collected

NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?"
"""A number with or without commas between thousands."""
_RANK = re.compile(r"(?:rank|default)[ :=]?\s?(\d{1,6})\b|\[\d+,(\d{1,6})\]<std|^\s*(\d{1,6}):(?!\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Tool:
    """A tool whose log is read line by line."""

    kind: str
    """Its name."""
    example: str
    """Its line, in short, for the message that lists what is known."""
    marks: tuple[str, ...]
    """A line without any of these is none of its readings."""
    read: Callable[[Collected, int, str], None]
    """Read a line: given what was collected so far, its number and its text."""
    many: Callable[[Collected, int, str], bool] | None = None
    """Read all readings of a piece at once, given the number of its first line; False if it has to be read by lines."""
    end: Callable[[Collected], None] | None = None
    """What to do at the end of the file."""
    facts: tuple[str, ...] = ()
    """A line with one of these may say something of the run, without being a reading."""
    conventions: tuple[str, ...] = ()
    """Conventions (`longcat.costs.conventions`) in which the tool may count the FLOP that it tells."""
    recomputation: bool = False
    """Whether it counts recomputation as work."""
    peak_tflops: float | None = None
    """Peak that it divides by on any device."""
    padded: bool = False
    """Whether its sequences often are of their own length or padded, as in fine-tuning."""


def number(text: str) -> float | None:
    """Read a number as tools print it: with commas, quotes or a further mean after a slash; None if it is none."""
    try:
        return float(text)
    except ValueError:
        pass
    found = re.match(rf"\s*['\"]?({NUMBER}|nan|-?inf)(?=$|[\s/%'\"|,;)\]])", text, re.IGNORECASE)
    return float(found[1].replace(",", "")) if found else None


def rank_of(text: str) -> int | None:
    """Return the process that a launcher names in front of a line; None if there is no such name."""
    found = _RANK.search(text) if text and not text.isspace() else None
    return int(found[1] or found[2] or found[3]) if found else None


def only_rank(piece: str, lines: int) -> tuple[bool, int | None]:
    """Return whether all of so many lines of a piece are of one process, and which; names of processes are in each or none."""
    head = piece[: piece.find("\n")]
    found = _RANK.search(head)
    tag = found[0] if found else ""
    if found and found[3]:
        alike = piece.startswith(tag) and piece.count("\n" + tag) == lines - 1
    else:
        alike = not tag or piece.count(tag) == lines
    words = all(piece.count(word) == (lines if word in tag else 0) for word in ("ank", "efault", "]<std"))
    return alike and words, int(found[1] or found[2] or found[3]) if found else None


def fraction(mfu: float | None, *, percent: bool | None = None) -> float | None:
    """Return an MFU as a fraction; None where it is none, as before the first measurement."""
    if mfu is None or not 0 < mfu < math.inf:
        return None
    return mfu / 100 if percent or (percent is None and mfu > 1) else mfu
