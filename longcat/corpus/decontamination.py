"""Decontamination: training text that shares a run of 13 words with an evaluation set, as for GPT-3 (arXiv 2005.14165, C).

A text of fewer words is looked for as a whole if it has 8, the least length there, or if it is a question of 5; not if it is
one of a list, as choices are, which many texts may have in common. Texts are compared in their normal form
(`longcat.corpus.normal_form`), in which numbers count.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from longcat.artifact import sha256_file
from longcat.corpus.normal_form import normal_form
from longcat.corpus.readers.jsonl import json_lines
from longcat.corpus.words import Words
from longcat.errors import DataError
from longcat.provenance import DATA

WORDS, LEAST_WORDS, QUESTION_WORDS = 13, 8, 5
_LEAST_CHARACTERS = 9  # 5 words have: 5 letters and 4 spaces, or 9 Han characters
NO_RUNS = np.empty((0, 3), np.uint64)
_QUESTION_MARKS = ("?", "？", "؟")
_CLOSING = " \t\r\n\"'”’」』)）"
_SETS = DATA / "evaluation"


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
    """Hash every run that must not occur: those of 13 words in some evaluation sets, and shorter texts that count as a whole.

    Returns:
        uint64 `[runs, 3]`: the hash of a run's first 5 words, how many pieces it has, and its hash.

    Raises:
        DataError: a line is no JSON.
    """
    texts = dict.fromkeys(found for path in files for found in _texts(path))
    runs = [_runs(text, listed) for text, listed in texts if len(text) >= _LEAST_CHARACTERS]
    found = np.concatenate([NO_RUNS, *runs])
    return found[np.unique(found[:, 2], return_index=True)[1]]


def _runs(text: str, listed: bool) -> np.ndarray:
    words = Words.of(normal_form(text))
    ends = words.run_ends(WORDS)
    if not len(ends) and not listed:
        least = QUESTION_WORDS if text.rstrip(_CLOSING).endswith(_QUESTION_MARKS) else LEAST_WORDS
        ends = np.full(int(words.count >= least), len(words), np.int64)
    begins = np.arange(len(ends))
    heads = words.runs(QUESTION_WORDS)[: len(ends)]
    return np.stack([heads, (ends - begins).astype(np.uint64), words.hashed(begins, ends)], axis=1)


class KnownRuns:
    """Looks for the runs that `known_runs` hashed."""

    def __init__(self, runs: np.ndarray) -> None:
        """Take runs, uint64 `[runs, 3]`."""
        self._heads = np.unique(runs[:, 0])
        self._lengths = np.unique(runs[:, 1]).astype(np.int64)
        self._wholes = np.unique(runs[:, 2])

    def __len__(self) -> int:
        return len(self._wholes)

    def are_in(self, words: Words) -> bool:
        """Say whether a text has one of the runs.

        Args:
            words: the words of its normal form.
        """
        begins = np.flatnonzero(_among(words.runs(QUESTION_WORDS), self._heads))
        for length in self._lengths:
            begins = begins[begins + length <= len(words)]
            if not len(begins):
                break
            if _among(words.hashed(begins, begins + length), self._wholes).any():
                return True
        return False


def _among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mark the values that are known, bool `[values]`; known values are sorted."""
    if not len(known):
        return np.zeros(len(values), bool)
    found: np.ndarray = known[np.searchsorted(known, values).clip(max=len(known) - 1)] == values
    return found


def _texts(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield every string in the objects of a .jsonl file, and whether it is in a list."""
    try:
        for value in json_lines(path):
            yield from _strings(value)
    except OSError as error:
        raise DataError(f"corpus.decontaminate: cannot read {path}: {error.strerror}") from None


def _strings(value: Any, listed: bool = False) -> Iterator[tuple[str, bool]]:
    if isinstance(value, str):
        yield value, listed
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, listed=True)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item, listed)
