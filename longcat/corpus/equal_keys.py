"""Which of many keys are equal, found by one sort of integers."""

from __future__ import annotations

import numpy as np


def shared(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the keys that come more than once.

    What is sorted is a key's lower bits with its place below them, so no order has to be carried along; keys that have
    those bits in common without being equal are few, if keys are hashes, and are told apart afterwards.

    Args:
        keys: uint64, fewer than 2^63.

    Returns:
        Places, int64 `[shared]`: those of equal keys together and in order; and whether each is the first of its key, bool.
    """
    bits = np.uint64(max(1, (len(keys) - 1).bit_length()))
    ordered = keys << bits
    ordered |= np.arange(len(keys), dtype=np.uint64)
    ordered.sort()
    same = (ordered[1:] ^ ordered[:-1]) >> bits == 0
    member = np.zeros(len(keys), bool)
    member[1:] = same
    member[:-1] |= same
    places = (ordered[member] & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
    own = keys[places]
    differ = own[1:] != own[:-1]
    if (differ & (own[1:] << bits == own[:-1] << bits)).any():
        places = places[np.argsort(own, kind="stable")]
        places = places[_repeated(keys[places])]
    return places, _first(keys[places])


def _first(ordered: np.ndarray) -> np.ndarray:
    """Mark the first of each run of equal keys, bool."""
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return new


def _repeated(ordered: np.ndarray) -> np.ndarray:
    """Mark the runs of more than one key, bool."""
    new = _first(ordered)
    return ~(new & np.append(new[1:], True))
