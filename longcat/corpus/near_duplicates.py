"""Near-duplicates by MinHash signatures and locality-sensitive hashing.

Broder, "On the resemblance and containment of documents" (1997); Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", chapter 3. The signatures are rensa's (Rust); the search is a sort for each band, so that it needs no index in
memory.
"""

from __future__ import annotations

import numpy as np

from longcat.config import NearDuplicateConfig
from longcat.corpus.normal_form import without_numbers
from longcat.corpus.words import Words, mix

_SEED = 0
_PAIRS = 1 << 14  # compared at once


def shingles(normal_form: str, config: NearDuplicateConfig) -> np.ndarray:
    """Hash all runs of `shingle_words` words, uint64; a shorter text is one run.

    Args:
        normal_form: `normal_form.normal_form` of a text; where numbers are not what it is about, they do not count.
        config: the length of the runs.
    """
    words = Words.of(without_numbers(normal_form, Words.of(normal_form).count))
    runs = words.runs(config.shingle_words)
    return runs if len(runs) else words.hashed(np.zeros(1, np.int64), np.full(1, len(words)))


def signatures(documents: list[np.ndarray], config: NearDuplicateConfig) -> np.ndarray:
    """Compute the minima of `bands * rows` hash functions over the shingles of each document, uint32 `[documents, minima]`."""
    from rensa import RMinHash

    size = config.bands * config.rows
    if not documents:
        return np.empty((0, size), np.uint32)
    places = np.zeros(len(documents) + 1, np.uint64)
    np.cumsum([len(hashes) for hashes in documents], out=places[1:])
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(documents), places, size, _SEED)
    return np.array(matrix.to_rows(), np.uint32)


def near_duplicates(signatures: np.ndarray, config: NearDuplicateConfig) -> np.ndarray:
    """Mark the documents that are at least as similar to an earlier one as the threshold, bool `[documents]`.

    Documents that agree in all rows of a band are compared with the first such document and with the one before; the
    similarity is the fraction of minima they have in common. A dropped document still acts as a reference, so only the
    first of a chain of near-duplicates is kept.
    """
    duplicate = np.zeros(len(signatures), bool)
    for band in range(config.bands):
        keys = np.zeros(len(signatures), np.uint64)
        for row in range(band * config.rows, (band + 1) * config.rows):
            keys = mix(keys + signatures[:, row])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        repeated = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        if not len(repeated):
            continue
        leaders = order[np.searchsorted(keys, keys[repeated])]
        for later, earlier in ((order[repeated], leaders), (order[repeated], order[repeated - 1])):
            for begin in range(0, len(later), _PAIRS):
                part = slice(begin, begin + _PAIRS)
                pairs = ~duplicate[later[part]]
                these, those = later[part][pairs], earlier[part][pairs]
                duplicate[these] = (signatures[these] == signatures[those]).mean(1) >= config.threshold
    return duplicate
