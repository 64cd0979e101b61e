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
from longcat.corpus.equal_keys import shared
from longcat.corpus.normal_form import without_numbers
from longcat.corpus.words import Words, mix

_SEED = 0
_PAIRS = 1 << 14  # compared at once
_AT_ONCE = 1 << 10
"""Documents whose bands are hashed at once, few enough for a processor's cache."""


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
    keys = np.empty((config.bands, len(signatures)), np.uint64)
    factors = mix(np.arange(1, config.rows + 1, dtype=np.uint64)) | np.uint64(1)  # a multilinear hash
    for begin in range(0, len(signatures), _AT_ONCE):
        minima = signatures[begin : begin + _AT_ONCE].reshape(-1, config.bands, config.rows)
        keys[:, begin : begin + _AT_ONCE] = mix(np.einsum("dbr,r->db", minima, factors)).T
    return keys


def pairs(keys: np.ndarray) -> np.ndarray:
    """Return the pairs to compare in the buckets of one band, int64 `[pairs, 2]`: places of a later document and of an earlier one.

    Args:
        keys: of each document in their order, uint64.
    """
    places, leads = shared(keys)
    later = np.flatnonzero(~leads)
    first, before = places[leads][np.cumsum(leads)[later] - 1], places[later - 1]
    further = before != first
    found = np.stack([places[later], first], axis=1)
    return np.concatenate([found, np.stack([found[further, 0], before[further]], axis=1)])


def distinct(found: np.ndarray) -> np.ndarray:
    """Return the different pairs, by their later document and then by the earlier one.

    Args:
        found: numbers of documents, int64 `[pairs, 2]`; the range of the later ones times the highest of the earlier ones
            is less than 2^63.
    """
    if not len(found):
        return found
    least, bits = found[:, 0].min(), int(found[:, 1].max()).bit_length()
    packed = np.unique((found[:, 0] - least) << bits | found[:, 1])
    return np.stack([(packed >> bits) + least, packed & ((1 << bits) - 1)], axis=1)


def alike(some: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """Tell which pairs of signatures `[pairs, minima]` have that fraction of minima in common, bool `[pairs]`."""
    found = np.empty(len(some), bool)
    for begin in range(0, len(some), _PAIRS):
        part = slice(begin, begin + _PAIRS)
        found[part] = (some[part] == others[part]).mean(1) >= threshold
    return found


def near_duplicates(signatures: np.ndarray, config: NearDuplicateConfig) -> np.ndarray:
    """Mark the documents that the law leaves out, bool `[documents]`, in memory."""
    duplicate = np.zeros(len(signatures), bool)
    for keys in band_keys(signatures, config):
        found = distinct(pairs(keys))
        for begin in range(0, len(found), _PAIRS):
            later, earlier = found[begin : begin + _PAIRS].T
            is_alike = alike(signatures[later], signatures[earlier], config.threshold)
            duplicate[later[is_alike]] = True
    return duplicate
