"""One document after another: cleaned, or left out for a reason that is counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from longcat.config import CorpusConfig
from longcat.corpus.cleaning import Dropped, clean
from longcat.corpus.decontamination import Decontamination
from longcat.corpus.deduplication import Deduplicator, content_hash
from longcat.corpus.filters import Filter
from longcat.corpus.language import language
from longcat.corpus.near_duplicates import NearDuplicates
from longcat.corpus.privacy import mask

SAMPLES, SAMPLE_CHARACTERS = 3, 300


class Judge:
    """Cheap questions come first; each document is counted under the first reason that leaves it out.

    Normalising, cutting of lines, length, language, rules, masking, exact duplicates, decontamination, near-duplicates.
    """

    def __init__(self, corpus: CorpusConfig, evaluations: list[Path]) -> None:
        self._corpus = corpus
        self._filter = Filter(corpus.filters)
        self._exact = Deduplicator()
        self._evaluations = Decontamination(evaluations)
        self._near = None if corpus.near_duplicates is None else NearDuplicates(corpus.near_duplicates)
        asked: list[str] = ["empty", "too_short", "too_long"]
        asked += ["language"] if corpus.languages else []
        asked += [*self._filter.names, "duplicate"]
        asked += ["contaminated"] if evaluations else []
        asked += ["near_duplicate"] if self._near else []
        self.dropped = Counter(dict.fromkeys(asked, 0))
        """Documents left out, by reason."""
        self.masked: Counter[str] = Counter(dict.fromkeys(corpus.mask, 0))
        """Pieces of personal data replaced, by kind."""
        self.languages: Counter[str] = Counter()
        """Documents by language, where languages are asked for."""
        self.length_log2: Counter[int] = Counter()
        """Documents kept, by the power of two below their number of characters."""
        self.samples: dict[str, list[str]] = {reason: [] for reason in asked}
        """Beginnings of the first documents left out, by reason."""

    def keep(self, text: str) -> str | None:
        """The cleaned document, or none if it is left out."""
        cleaned = self._judged(text)
        if isinstance(cleaned, Dropped):
            self.dropped[cleaned.reason] += 1
            if len(self.samples[cleaned.reason]) < SAMPLES and text.strip():
                beginning = text[:SAMPLE_CHARACTERS]
                self.samples[cleaned.reason].append(mask(beginning, self._corpus.mask, Counter()))
            return None
        self.length_log2[len(cleaned).bit_length() - 1] += 1
        return cleaned

    def _judged(self, text: str) -> str | Dropped:
        cleaned = clean(text, self._corpus.min_characters, self._corpus.max_characters)
        if isinstance(cleaned, Dropped):
            return cleaned
        cut = self._filter.lines(cleaned)
        if cut is not cleaned:
            cleaned = clean(cut, self._corpus.min_characters, self._corpus.max_characters)
            if isinstance(cleaned, Dropped):
                return cleaned
        if self._corpus.languages:
            spoken = language(cleaned)
            self.languages[spoken] += 1
            if spoken not in self._corpus.languages:
                return Dropped("language")
        if rule := self._filter.verdict(cleaned):
            return Dropped(rule)
        if self._corpus.mask:
            cleaned = mask(cleaned, self._corpus.mask, self.masked)
        if not self._exact.is_new(content_hash(cleaned.encode())):
            return Dropped("duplicate")
        if self._evaluations.contains(cleaned):
            return Dropped("contaminated")
        if self._near is not None and not self._near.is_new(cleaned):
            return Dropped("near_duplicate")
        return cleaned
