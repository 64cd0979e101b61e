"""Training text that contains what a model is later asked: found by runs of 13 words, as GPT-3 did (arXiv 2005.14165, C)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from longcat.artifact import sha256_file
from longcat.corpus.words import Words
from longcat.errors import DataError
from longcat.provenance import ROOT

WORDS = 13
_SETS = ROOT / "data/evaluation"


def evaluation_files(names: list[str]) -> list[Path]:
    """The files that a list of evaluation sets names; `data` stands for all of data/evaluation.

    Raises:
        DataError: a file is missing.
    """
    files = []
    for name in names:
        files += sorted(_SETS.glob("*.jsonl")) if name == "data" else [Path(name).expanduser()]
    for path in files:
        if not path.is_file():
            raise DataError(f"corpus.decontaminate: {path} does not exist")
    return files


def pins(files: list[Path]) -> list[str]:
    """SHA-256 of each file, which stand for them in an artifact's identity."""
    return [sha256_file(path) for path in files]


def known_runs(files: list[Path]) -> np.ndarray:
    """Hashes of every run of 13 words in some evaluation sets, sorted uint64; shorter texts have none.

    Raises:
        DataError: a line is no JSON.
    """
    runs = [Words.of(text).runs(WORDS) for path in files for text in _texts(path)]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *runs]))


def is_contaminated(words: Words, known: np.ndarray) -> bool:
    """Whether a text has one of the runs that `known_runs` found."""
    if not len(known):
        return False
    runs = words.runs(WORDS)
    return bool((known[np.searchsorted(known, runs).clip(max=len(known) - 1)] == runs).any())


def _texts(path: Path) -> Iterator[str]:
    """Every string in the objects of a .jsonl file."""
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield from _strings(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path}:{number}: broken JSON ({error})") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
