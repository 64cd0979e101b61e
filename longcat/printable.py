"""What is shown: text of others, made harmless for a terminal or Markdown (HTML is Jinja's, by autoescaping), counts, warnings."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line end, and those that turn the order of what follows."""
_MARKDOWN = re.compile(r"[\\`*\[\]<>|&~$]|(?<!\w)_|_(?!\w)")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def printable(text: str) -> str:
    """Return a text with its control characters spelled out, so that it cannot move a cursor or colour a terminal."""
    return _CONTROL.sub(_spell, text)


def markdown_text(text: object) -> str:
    r"""Return a text for the middle of a line of Markdown, where it stands as it is.

    Signs of Markdown get a `\`, those of HTML become entities, line ends become spaces.
    """
    line = printable(" ".join(str(text).split()))
    return _MARKDOWN.sub(lambda sign: _ENTITIES.get(sign[0], f"\\{sign[0]}"), line)


def counted(count: int, thing: str) -> str:
    """Return how many there are of a thing: `1 order`, `2,000 orders`."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def short_count(count: int) -> str:
    """Return a count in millions with two decimals, or whole if it is less than ten thousand."""
    return f"{count:,}" if count < 10_000 else f"{count / 1e6:,.2f} M"


def large_count(count: float) -> str:
    """Return a large count in millions or billions, for example 2.70 M or 68.60 B."""
    size, unit = (1e9, "B") if count >= 1e9 else (1e6, "M")
    return f"{count / size:,.2f} {unit}"


def percent(value: float | None) -> str:
    """Return a fraction as a percentage with one decimal, or below 1 % with two digits, so that no small one is zero; None as n/a."""
    if value is None:
        return "n/a"
    return f"{100 * value:.2g}%" if 0 < value < 0.00995 else f"{value:.1%}"


def ratio(value: float | None) -> str:
    """Return a ratio with two decimals, of small and large ones two or three digits; None as n/a."""
    if value is None:
        return "n/a"
    return f"{value:.3g}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def large_bytes(size: float) -> str:
    """Return a size in GB with one decimal, or in MB if it is less than a tenth of one, for example `12.5 GB` or `3.9 MB`."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """Return a time in its two largest units, for example `3 min 20 s`."""
    left = round(max(seconds, 0))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        parts.append((count, unit))
    first = next((number for number, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count or first == len(parts) - 1)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return `; did you mean 'WORD'?` with the nearest of the words that there are, or nothing if none is near."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


@contextmanager
def shown_warnings(show: Callable[[str], object]) -> Iterator[None]:
    """Have warnings for the user shown by a function, without the line of code that they come from.

    Args:
        show: gets the text of each `UserWarning`, when it is given; other kinds are for programmers, and go where they went.
    """
    with warnings.catch_warnings():
        others = warnings.showwarning

        def choose(message: Warning | str, category: type[Warning], *where: Any, **named: Any) -> None:
            if issubclass(category, UserWarning):
                show(str(message))
            else:
                others(message, category, *where, **named)

        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = choose
        yield


def _spell(character: re.Match[str]) -> str:
    code = ord(character[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
