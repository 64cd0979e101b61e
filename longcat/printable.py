"""Text of others, made harmless for where it is shown: on a terminal or in Markdown. HTML is Jinja's, by autoescaping."""

from __future__ import annotations

import re

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


def _spell(character: re.Match[str]) -> str:
    code = ord(character[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
