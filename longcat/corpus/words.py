"""Words of a text as numbers: repetition, duplicates and contamination are found among hashes of runs of words.

A word is a run without white space; a Chinese, Japanese or Korean character is one of its own. Case does not count.
Everything is computed by numpy over the whole text, at about 50 MB/s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_POWERS = np.cumprod(np.full(256, _MULTIPLIER))
CJK_RANGES = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF))
"""Kana, Han and Hangul, first and last character of each range."""
_WORD, _SPACE, _CJK = 0, 1, 2
_OTHER, _RARE_HAN = 0xFFFF, 0x4E00  # what characters beyond the basic plane are taken for


@dataclass(frozen=True)
class Words:
    """The words of one text; arrays are `[words]`."""

    hashes: np.ndarray
    """Hash of each word, uint64, whatever its case."""
    lengths: np.ndarray
    """Characters of each word, int64."""
    is_cjk: np.ndarray
    """Whether each is a Chinese, Japanese or Korean character, bool."""
    is_alphabetic: np.ndarray
    """Whether each has a letter, bool."""

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def of(cls, text: str) -> Words:
        """Split a text into words."""
        codes = np.frombuffer(text.lower().encode("utf-32-le"), np.uint32)
        looked_up = codes
        if len(codes) and codes.max() > _OTHER:
            looked_up = np.where(codes <= _OTHER, codes, np.where(codes < 0x20000, _OTHER, _RARE_HAN))
        kinds, letters = _tables()
        kind = kinds[looked_up]
        inside = np.flatnonzero(kind != _SPACE)
        if not len(inside):
            nothing = np.empty(0, np.uint64)
            return cls(nothing, nothing.astype(np.int64), nothing.astype(bool), nothing.astype(bool))
        kind = kind[inside]
        begins = np.empty(len(inside), bool)
        begins[0] = True
        is_cjk = kind == _CJK
        begins[1:] = (inside[1:] - inside[:-1] > 1) | is_cjk[1:] | is_cjk[:-1]
        first = np.flatnonzero(begins)
        lengths = np.diff(first, append=len(inside))
        place = np.arange(len(inside)) - np.repeat(first, lengths)
        # a polynomial in the characters, modulo 2^64; beyond 256 of them their order does not matter
        terms = (codes[inside].astype(np.uint64) + np.uint64(1)) * _POWERS[np.minimum(place, 255)]
        return cls(
            hashes=mix(np.add.reduceat(terms, first)),
            lengths=lengths,
            is_cjk=is_cjk[first],
            is_alphabetic=np.logical_or.reduceat(letters[looked_up[inside]], first),
        )

    def runs(self, n: int) -> np.ndarray:
        """Hash each run of n words, uint64 `[max(0, words - n + 1)]`."""
        count = max(0, len(self) - n + 1)
        hashed = np.zeros(count, np.uint64)
        for offset in range(n):
            hashed *= _MULTIPLIER
            hashed += self.hashes[offset : offset + count]
        return hashed


def mix(values: np.ndarray) -> np.ndarray:
    """Apply the finalizer of splitmix64: every input bit moves every output bit (arithmetic is modulo 2^64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return, for each character of the basic plane, its kind and whether it is a letter."""
    characters = [chr(code) for code in range(_OTHER + 1)]
    kinds = np.fromiter((_SPACE if character.isspace() else _WORD for character in characters), np.uint8)
    for begin, end in CJK_RANGES:
        kinds[begin : end + 1] = _CJK
    return kinds, np.fromiter(map(str.isalpha, characters), bool)
