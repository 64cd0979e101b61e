"""Decontamination: training text that shares a run of 13 words with an evaluation set, as for GPT-3 (arXiv 2005.14165, C)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from longcat.artifact import sha256_file
from longcat.corpus.readers.jsonl import json_lines
from longcat.corpus.words import Words
from longcat.errors import DataError
from longcat.provenance import ROOT

WORDS = 13
_SETS = ROOT / "data/evaluation"


def evaluation_files(names: list[str]) -> list[Path]:
    """List the files that `corpus.decontaminate` names; `data` stands for all of data/evaluation.

    Raises:
        DataError: a file is missing.
    """
    files = []
    for name in names:
        files += sorted(_SETS.rglob("*.jsonl")) if name == "data" else [Path(name).expanduser()]
    for path in files:
        if not path.is_file():
            raise DataError(f"corpus.decontaminate: {path} does not exist (relative paths start at {Path.cwd()})")
    return files


def check_evaluation_files(names: list[str]) -> None:
    """Refuse evaluation sets that cannot be read.

    Raises:
        DataError: a file is missing or unreadable, or a line of it is no JSON.
    """
    for path in evaluation_files(names):
        for _ in _texts(path):
            pass


def pins(files: list[Path]) -> list[str]:
    """Hash each file (SHA-256): what stands for it in an artifact's identity."""
    return [sha256_file(path) for path in files]


def known_runs(files: list[Path]) -> np.ndarray:
    """Hash every run of 13 words in some evaluation sets, sorted uint64; shorter texts have none.

    Raises:
        DataError: a line is no JSON.
    """
    runs = [Words.of(text).runs(WORDS) for path in files for text in _texts(path)]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *runs]))


def is_contaminated(words: Words, known: np.ndarray) -> bool:
    """Say whether a text has one of the runs that `known_runs` hashed."""
    if not len(known):
        return False
    runs = words.runs(WORDS)
    return bool((known[np.searchsorted(known, runs).clip(max=len(known) - 1)] == runs).any())


def _texts(path: Path) -> Iterator[str]:
    """Yield every string in the objects of a .jsonl file."""
    try:
        for value in json_lines(path):
            yield from _strings(value)
    except OSError as error:
        raise DataError(f"corpus.decontaminate: cannot read {path}: {error.strerror}") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
