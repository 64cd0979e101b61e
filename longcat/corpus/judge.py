"""One document after another: cleaned, or left out for a reason that can be seen from the document alone."""

from __future__ import annotations

import inspect
import pkgutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longcat.config import CorpusConfig
from longcat.corpus.cleaning import Dropped, clean, repair
from longcat.corpus.decontamination import is_contaminated
from longcat.corpus.filters import Document, Filter
from longcat.corpus.language import language
from longcat.corpus.privacy import mask
from longcat.errors import ConfigError

SAMPLES, SAMPLE_CHARACTERS = 3, 300


@dataclass(frozen=True)
class Verdict:
    """What was found out about one document."""

    document: Document | Dropped
    language: str | None = None
    """Where languages are asked for and it came to that question."""
    masked: Counter[str] | None = None
    """Pieces of personal data replaced, by kind."""


class Judge:
    """Cheap questions come first; a document is counted under the first reason that leaves it out.

    Encoding, normal form, lines, length, language, personal data, rules, quality, contamination.
    """

    def __init__(self, corpus: CorpusConfig, known: np.ndarray) -> None:
        """`known` are the hashes of `decontamination.known_runs`.

        Raises:
            ConfigError: there is no function as `corpus.quality` names it.
        """
        self._corpus = corpus
        self._filter = Filter(corpus.filters)
        self._known = known
        self._quality = None if corpus.quality is None else quality_function(corpus.quality.function)

    def verdict(self, text: str) -> Verdict:
        """Clean and judge a document."""
        corpus = self._corpus
        cleaned = self._clean(text)
        if isinstance(cleaned, Dropped):
            return Verdict(cleaned)
        spoken = language(cleaned) if corpus.languages else None
        if spoken is not None and spoken not in corpus.languages:
            return Verdict(Dropped("language"), spoken)
        masked: Counter[str] = Counter()
        document = Document(mask(cleaned, corpus.mask, masked) if corpus.mask else cleaned)
        if rule := self._filter.verdict(document):
            return Verdict(Dropped(rule), spoken)
        if corpus.quality and not self._score(document.text) >= corpus.quality.minimum:  # no number is not enough
            return Verdict(Dropped("quality"), spoken)
        if len(self._known) and is_contaminated(document.words, self._known):
            return Verdict(Dropped("contaminated"), spoken)
        return Verdict(document, spoken, masked)

    def _score(self, text: str) -> float:
        assert self._quality and self._corpus.quality
        try:
            return float(self._quality(text))
        except Exception as error:  # other people's code
            name = self._corpus.quality.function
            raise ConfigError(f"corpus.quality.function={name} failed: {type(error).__name__}: {error}") from error

    def sample(self, text: str) -> str:
        """The beginning of a document that was left out, without the personal data that is masked elsewhere."""
        # masked before it is cut: half an address is not recognised
        return mask(text[: 2 * SAMPLE_CHARACTERS], self._corpus.mask, Counter())[:SAMPLE_CHARACTERS]

    def _clean(self, text: str) -> str | Dropped:
        corpus = self._corpus
        if corpus.repair_encoding:
            text = repair(text)
        cleaned = clean(text, corpus.min_characters, corpus.max_characters)
        if isinstance(cleaned, Dropped):
            return cleaned
        cut = self._filter.lines(cleaned)
        return cleaned if cut is cleaned else clean(cut, corpus.min_characters, corpus.max_characters)


def reasons(corpus: CorpusConfig) -> list[str]:
    """Why documents may be left out under this configuration, in the order of the questions."""
    names = ["empty", "too_short", "too_long"]
    names += ["language"] if corpus.languages else []
    names += Filter(corpus.filters).names
    names += ["quality"] if corpus.quality else []
    names += ["contaminated"] if corpus.decontaminate else []
    names += ["duplicate"]
    names += ["near_duplicate"] if corpus.near_duplicates else []
    return names + (["repeated_paragraphs"] if corpus.repeated_paragraph_characters else [])


def quality_function(name: str) -> Callable[[str], float]:
    """The function `package.module:name`.

    Raises:
        ConfigError: it is not there.
    """
    try:
        function = pkgutil.resolve_name(name)
    except Exception as error:  # importing runs other people's code
        raise ConfigError(f"corpus.quality.function={name} cannot be imported: {error}") from error
    if not callable(function):
        raise ConfigError(f"corpus.quality.function={name} is no function")
    return function


def quality_source(name: str) -> Path | None:
    """The file that the function is defined in; none for one written in C."""
    function = inspect.unwrap(quality_function(name))
    for defined in (function, type(function)):  # an object that can be called is of some class
        try:
            return Path(str(inspect.getsourcefile(defined)))
        except (TypeError, OSError):
            continue
    return None
