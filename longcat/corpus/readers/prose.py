"""What the readers of marked-up text have in common."""

from __future__ import annotations

import re

_GAPS = re.compile(r"[ \t]*\n[ \t]*(?:\n[ \t]*)+")


def close_gaps(text: str) -> str:
    """Separate paragraphs by one empty line, and drop white space round the whole."""
    return _GAPS.sub("\n\n", text).strip()
