"""What a run is called in MLflow and in Prefect, and what it is found by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from longcat.printable import printable
from longcat.redaction import redact

MOST = 100
"""Characters of a name or a tag."""
UNJUDGED = "evaluation.gates=[]"
"""What `longcat evaluate --compare` sets by itself, as a comparison makes no champion; no run is told apart by it."""
_MOST_OF_VALUE = 24


def run_name(flow: str, preset: str, config_file: str | None, overrides: Sequence[str]) -> str:
    """Return a name that tells runs apart: flow or stage, preset, file, and each override by the last part of its key.

    A long value, which would push out what follows, is shortened; of a path that is its beginning.
    """
    file = [] if config_file is None else [Path(config_file).stem]
    told = (one.partition("=") for one in overrides if one != UNJUDGED)
    short = [f"{key.rpartition('.')[2]}={_short(value)}" for key, _, value in told]
    return _shown("-".join([flow, preset, *file, *short]))


def run_tags(flow: str, preset: str, overrides: Sequence[str]) -> list[str]:
    """Return the tags that runs are found by: flow, preset, and each override in full."""
    return [flow, preset, *(_shown(one) for one in overrides if one != UNJUDGED)]


def _short(value: str) -> str:
    text = redact(value)
    if len(text) <= _MOST_OF_VALUE:
        return text
    if text[0] in "/~.":
        return f"…{text[1 - _MOST_OF_VALUE :]}"
    return f"{text[: _MOST_OF_VALUE - 1]}…"


def _shown(text: str) -> str:
    line = printable(redact(" ".join(text.split())))
    return line if len(line) <= MOST else line[: MOST - 1] + "…"
