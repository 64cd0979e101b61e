"""Near-duplicates by MinHash signatures and locality-sensitive hashing.

Broder, "On the resemblance and containment of documents" (1997); Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", chapter 3. The signatures are rensa's (Rust).

The law: documents that agree in all rows of a band are in one bucket. A document is left out if it is at least as
similar as the threshold to the first document of one of its buckets, or to the one before it there; the similarity is
the fraction of minima that two have in common. Whether those are left out themselves does not matter, so only the first
of a chain of near-duplicates is kept. Every pair is judged by itself: the outcome depends on the order of the documents
and on nothing else, wherever, in whatever order and in however many parts the buckets are looked at (`search` does that
on disk).
"""

from __future__ import annotations

import numpy as np

from longcat.config import NearDuplicateConfig
from longcat.corpus.normal_form import without_numbers
from longcat.corpus.words import Words, mix

_SEED = 0
_PAIRS = 1 << 14  # compared at once
_AT_ONCE = 1 << 13
"""Documents whose bands are hashed at once, few enough for a processor's cache."""
PAIR = np.dtype([("later", np.uint64), ("earlier", np.uint64)])
"""Two documents to compare, by number."""


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


def band_keys(signatures: np.ndarray, config: NearDuplicateConfig) -> np.ndarray:
    """Hash the rows of each band, uint64 `[bands, documents]`: those of equal key are in one bucket."""
    keys = np.zeros((config.bands, len(signatures)), np.uint64)
    for begin in range(0, len(signatures), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        minima = np.ascontiguousarray(signatures[part].T)
        for band in range(config.bands):
            hashed = np.zeros(minima.shape[1], np.uint64)
            for row in range(band * config.rows, (band + 1) * config.rows):
                hashed = mix(hashed + minima[row])
            keys[band, part] = hashed
    return keys


def pairs(keys: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return the pairs to compare in the buckets of one band, `PAIR`.

    Args:
        keys: of each document, uint64.
        documents: their numbers, uint64.
    """
    order = np.argsort(keys)
    keys, documents = keys[order], documents[order]
    same = keys[1:] == keys[:-1]
    shared = np.zeros(len(keys), bool)
    shared[1:] |= same
    shared[:-1] |= same
    keys, documents = keys[shared], documents[shared]  # few, as a rule
    order = np.lexsort((documents, keys))
    keys, documents = keys[order], documents[order]
    leads = np.ones(len(keys), bool)
    leads[1:] = keys[1:] != keys[:-1]
    later = np.flatnonzero(~leads)
    found = np.empty(2 * len(later), PAIR)
    found["later"] = np.tile(documents[later], 2)
    found["earlier"][: len(later)] = documents[leads][np.cumsum(leads)[later] - 1]
    found["earlier"][len(later) :] = documents[later - 1]
    return found


def distinct(found: np.ndarray) -> np.ndarray:
    """Return the different pairs, by their later document and then by the earlier one."""
    ordered = found[np.lexsort((found["earlier"], found["later"]))]
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new]


def alike(some: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """Tell which pairs of signatures `[pairs, minima]` have that fraction of minima in common, bool `[pairs]`."""
    found = np.empty(len(some), bool)
    for begin in range(0, len(some), _PAIRS):
        part = slice(begin, begin + _PAIRS)
        found[part] = (some[part] == others[part]).mean(1) >= threshold
    return found


def near_duplicates(signatures: np.ndarray, config: NearDuplicateConfig) -> np.ndarray:
    """Mark the documents that the law leaves out, bool `[documents]`, in memory."""
    numbers = np.arange(len(signatures), dtype=np.uint64)
    duplicate = np.zeros(len(signatures), bool)
    for keys in band_keys(signatures, config):
        found = distinct(pairs(keys, numbers))
        for begin in range(0, len(found), _PAIRS):
            part = found[begin : begin + _PAIRS]
            part = part[~duplicate[part["later"]]]
            is_alike = alike(signatures[part["later"]], signatures[part["earlier"]], config.threshold)
            duplicate[part["later"][is_alike]] = True
    return duplicate
