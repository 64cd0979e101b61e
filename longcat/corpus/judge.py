"""The questions that a document is asked by itself: it is cleaned, or left out for a reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from longcat.config import CorpusConfig
from longcat.corpus.cleaning import Dropped, clean, repair
from longcat.corpus.decontamination import KnownRuns
from longcat.corpus.filters import Document, Filter
from longcat.corpus.language import language
from longcat.corpus.mojibake import is_mojibake
from longcat.corpus.own_functions import OwnFunction
from longcat.corpus.privacy import mask
from longcat.corpus.words import Words

SAMPLES, SAMPLE_CHARACTERS = 3, 300


@dataclass(frozen=True)
class Verdict:
    """The outcome of all questions about one document."""

    document: Document | Dropped
    language: str | None = None
    """Code of its language; None if languages do not matter, or the document was left out before that question."""
    masked: Counter[str] | None = None
    """Personal data replaced, counted by kind."""
    score: float | None = None
    """What `corpus.quality` found; None if nobody asked."""


class Judge:
    """Judges documents one by one; cheap questions come first, and the first reason that leaves a document out counts.

    Encoding, normal form, lines, length, language, personal data, rules, quality, contamination.
    """

    def __init__(self, corpus: CorpusConfig, known: np.ndarray) -> None:
        """Prepare the questions of a configuration.

        Args:
            corpus: what is asked.
            known: hashes of `decontamination.known_runs`.

        Raises:
            ConfigError: there is no rule or function as `corpus.filters` or `corpus.quality` names it.
        """
        self._corpus = corpus
        self._filter = Filter(corpus.filters)
        self._known = KnownRuns(known)
        self._quality = quality_function(corpus)

    def verdict(self, text: str) -> Verdict:
        """Clean and judge a document."""
        corpus = self._corpus
        cleaned = self._clean(text)
        if isinstance(cleaned, Dropped):
            return Verdict(cleaned)
        spoken = language(cleaned, corpus.languages) if corpus.languages else None
        if spoken is not None and spoken not in corpus.languages:
            return Verdict(Dropped("language"), spoken)
        masked: Counter[str] = Counter()
        document = Document(mask(cleaned, corpus.mask, masked) if corpus.mask else cleaned)
        if rule := self._filter.verdict(document):
            return Verdict(Dropped(rule), spoken)
        score = self._score(document.text) if corpus.quality else None
        if corpus.quality and score is not None and not score >= corpus.quality.minimum:  # no number is not enough
            return Verdict(Dropped("quality"), spoken, score=score)
        if self._known and self._known.are_in(Words.of(document.normal_form)):
            return Verdict(Dropped("contaminated"), spoken, score=score)
        return Verdict(document, spoken, masked, score)

    def _score(self, text: str) -> float:
        assert self._quality
        score = self._quality(text)
        try:
            return float(score)
        except (TypeError, ValueError):
            raise self._quality.failed(f"it returned {score!r}, not a number") from None

    def masked(self, text: str) -> str:
        """Return a document that was left out with its personal data masked as everywhere."""
        return mask(text, self._corpus.mask, Counter()) if self._corpus.mask else text

    def sample(self, text: str) -> str:
        """Return the beginning of a document that was left out, with its personal data masked as everywhere."""
        # masked before it is cut: half an address is not recognised
        return mask(text[: 2 * SAMPLE_CHARACTERS], self._corpus.mask, Counter())[:SAMPLE_CHARACTERS]

    def _clean(self, text: str) -> str | Dropped:
        corpus = self._corpus
        if corpus.repair_encoding:
            text = repair(text)
        if is_mojibake(text):
            return Dropped("mojibake")
        cleaned = clean(text, corpus.min_characters, corpus.max_characters)
        if isinstance(cleaned, Dropped):
            return cleaned
        cut = self._filter.lines(cleaned)
        return cleaned if cut is cleaned else clean(cut, corpus.min_characters, corpus.max_characters)


def reasons(corpus: CorpusConfig) -> list[str]:
    """List the reasons for which this configuration may leave documents out, in the order of the questions."""
    names = ["mojibake", "empty", "too_short", "too_long"]
    names += ["language"] if corpus.languages else []
    names += Filter(corpus.filters).reasons
    names += ["quality"] if corpus.quality else []
    names += ["contaminated"] if corpus.decontaminate else []
    names += ["duplicate"]
    names += ["near_duplicate"] if corpus.near_duplicates else []
    return names + (["repeated_paragraphs"] if corpus.repeated_paragraph_characters else [])


def quality_function(corpus: CorpusConfig) -> OwnFunction | None:
    """Load the function that `corpus.quality` names, if it names one.

    Raises:
        ConfigError: it is not there.
    """
    return None if corpus.quality is None else OwnFunction.load(corpus.quality.function, "corpus.quality.function=")
