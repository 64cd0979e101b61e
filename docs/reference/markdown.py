"""Markdown of generated pages: tables, and text from docstrings."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_KEPT = re.compile(r"(`[^`]+`|\bdocs/[a-z_]+\.md)")
"""Code, and names of pages."""
_PAGES = Path(__file__).parents[1]


def prose(text: str) -> str:
    """Return text of a docstring on one line: characters that Markdown reads otherwise are escaped, names of pages are links."""
    parts = _KEPT.split(" ".join(text.split()))
    return "".join(_kept(part) if number % 2 else _plain(part) for number, part in enumerate(parts))


def _kept(part: str) -> str:
    page = _PAGES / part.removeprefix("docs/")
    return part if part.startswith("`") or not page.is_file() else f"[{page.stem}](../{page.name})"


def _plain(text: str) -> str:
    escaped = re.sub(r"([*_|])", r"\\\1", html.escape(text, quote=False))
    return escaped.replace("[", "&#91;").replace("]", "&#93;")  # the check of links does not know the other way


def code(value: object) -> str:
    """Return a value in the font of code."""
    text = str(value)
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown; a bar is escaped in `prose`, and stands for itself in code."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
