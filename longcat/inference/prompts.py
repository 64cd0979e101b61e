"""Files of prompts."""

from __future__ import annotations

from pathlib import Path

from longcat.errors import DataError
from longcat.unpacking import parse_json, read_bounded


def read_prompts(path: Path) -> list[str]:
    """Read texts to continue: one a line; in a `.jsonl` each line is a JSON string, or an object with a `prompt`.

    Blank lines are left out.

    Raises:
        DataError: the file cannot be read, has no text, or a line is no prompt.
    """
    try:
        lines = read_bounded(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the prompts in {path}: {error}") from None
    texts = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            texts.append(_prompt(line, f"{path}:{number}") if path.suffix == ".jsonl" else line)
    if not texts:
        raise DataError(f"{path} has no prompts")
    return texts


def _prompt(line: str, where: str) -> str:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where}: broken JSON ({error})") from None
    if isinstance(value, dict):
        value = value.get("prompt")
    if not isinstance(value, str):
        raise DataError(f"{where}: expected a JSON string, or an object with the string prompt")
    return value
