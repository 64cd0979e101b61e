"""Near-duplicates by MinHash signatures and locality-sensitive hashing, with the Rust library rensa.

Broder, "On the resemblance and containment of documents" (1997); Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", chapter 3.
"""

from __future__ import annotations

from longcat.config import NearDuplicateConfig
from longcat.corpus.filters import Document

_SEED = 0


class NearDuplicates:
    """Remembers the signature of every document it has let pass: 4 bytes for each of `bands * rows` minima."""

    def __init__(self, config: NearDuplicateConfig) -> None:
        from rensa import RMinHashDeduplicator

        self.config = config
        self._size = config.bands * config.rows
        self._known = RMinHashDeduplicator(config.threshold, self._size, True, config.bands, _SEED)
        self._passed = 0

    def is_new(self, text: str) -> bool:
        """Whether no earlier document is as similar as the threshold; if so, the text is remembered.

        A text of fewer words than a shingle is compared as a whole.
        """
        from rensa import RMinHash

        signature = RMinHash(self._size, _SEED)
        signature.update(shingles(text, self.config.shingle_words))
        new: bool = self._known.add(str(self._passed), signature)
        self._passed += new
        return new


def shingles(text: str, words: int) -> list[str]:
    """Runs of so many words, in lower case; the whole text if it has fewer."""
    parts = Document(text.lower()).words
    if len(parts) < words:
        return [" ".join(parts)]
    return list(map(" ".join, zip(*(parts[offset:] for offset in range(words)), strict=False)))
