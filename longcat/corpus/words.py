"""Words of a text as numbers: repetition, duplicates and contamination are found among hashes of runs of words.

A piece is a run without white space, or one character of a script that is written without spaces: Han, hiragana, Thai, Lao,
Khmer and Burmese; Hangul too, whose spaces writers set as they like. A run of katakana is one piece, since it spells one
word. Punctuation goes with the piece before it. Case does not count.

A piece of several characters counts as one word, a single character as a part of one (`_SIZES`), so that lengths in words
mean the same for every script: 13 English words are as long as 22 Han characters.
Everything is computed by numpy over the whole text, at about 30 MB/s.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property

import numpy as np

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_POWERS = np.cumprod(np.full(256, _MULTIPLIER))
_OTHER, _RARE_HAN = 0xFFFF, 0x4E00  # what characters beyond the basic plane are taken for


class Script(IntEnum):
    """What a piece is written in; `SPACED` stands for all scripts that put spaces between words."""

    SPACED = 0
    KATAKANA = 1
    HAN = 2
    HIRAGANA = 3
    HANGUL = 4
    SOUTHEAST_ASIAN = 5


RANGES = {
    Script.KATAKANA: ((0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    Script.HAN: ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)),
    Script.HIRAGANA: ((0x3041, 0x309F),),
    Script.HANGUL: ((0xAC00, 0xD7A3),),
    Script.SOUTHEAST_ASIAN: (
        (0x0E01, 0x0E4E),
        (0x0E81, 0x0ECF),
        (0x0EDC, 0x0EDF),
        (0x1000, 0x103F),
        (0x1050, 0x108F),
        (0x1780, 0x17D3),
    ),
}
"""First and last characters, in the basic plane, of the scripts that do not need spaces."""
UNIT = 20
"""Parts that a word is counted in, so that sizes are whole numbers."""
_SIZES = {
    Script.SPACED: UNIT,
    Script.KATAKANA: UNIT,
    Script.HAN: 12,
    Script.HIRAGANA: 12,
    Script.HANGUL: 10,
    Script.SOUTHEAST_ASIAN: 4,
}
"""Size of a piece: a word has 1.7 Han characters or hiragana, 2 syllables of Hangul or 5 characters of Thai (docs/preprocess.md)."""
_CLASSES = {script: "".join(f"{chr(a)}-{chr(b)}" for a, b in ranges) for script, ranges in RANGES.items()}
_CHARACTERS_OF_SIZE = {
    size: re.compile(f"[{''.join(_CLASSES[script] for script in _CLASSES if _SIZES[script] == size)}]")
    for size in {*_SIZES.values()} - {UNIT}
}
_APART = "".join(_CLASSES[script] for script in _CLASSES if _SIZES[script] < UNIT)
_KATAKANA = _CLASSES[Script.KATAKANA]
_WORD = re.compile(f"[{_KATAKANA}]+|[^\\W{_APART}{_KATAKANA}][^\\s{_APART}{_KATAKANA}]*")
_SIZE = np.array([_SIZES[script] for script in Script], np.int64)
_CHARACTER = np.array([script > Script.KATAKANA for script in Script])  # a character of these is a piece of its own
_SPACE, _PUNCTUATION = len(Script), len(Script) + 1


@dataclass(frozen=True)
class Words:
    """The pieces of one text; arrays are `[pieces]`."""

    hashes: np.ndarray
    """Hash of each piece, uint64, whatever its case."""
    lengths: np.ndarray
    """Characters of each piece, int64."""
    scripts: np.ndarray
    """The `Script` of each piece, uint8."""
    is_alphabetic: np.ndarray
    """Whether each has a letter, bool; a number that touches a single character (3号, 38元) is a word with letters."""

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def of(cls, text: str) -> Words:
        """Split a text into pieces."""
        codes = np.frombuffer(text.lower().encode("utf-32-le"), np.uint32)
        looked_up = codes
        if len(codes) and codes.max() > _OTHER:
            looked_up = np.where(codes <= _OTHER, codes, np.where(codes < 0x20000, _OTHER, _RARE_HAN))
        kinds, letters = _tables()
        kind = kinds[looked_up]
        inside = np.flatnonzero(kind != _SPACE)
        if not len(inside):
            nothing = np.empty(0, np.uint64)
            return cls(nothing, nothing.astype(np.int64), nothing.astype(np.uint8), nothing.astype(bool))
        kind = kind[inside]
        begins = _beginnings(kind, gap=inside[1:] - inside[:-1] > 1)
        first = np.flatnonzero(begins)
        lengths = np.diff(first, append=len(inside))
        scripts = np.where(kind[first] == _PUNCTUATION, Script.SPACED, kind[first]).astype(np.uint8)
        place = np.arange(len(inside)) - np.repeat(first, lengths)
        # a polynomial in the characters, modulo 2^64; beyond 256 of them their order does not matter
        terms = (codes[inside].astype(np.uint64) + np.uint64(1)) * _POWERS[np.minimum(place, 255)]
        return cls(
            hashes=mix(np.add.reduceat(terms, first)),
            lengths=lengths,
            scripts=scripts,
            is_alphabetic=np.logical_or.reduceat(letters[looked_up[inside]], first)
            | _touches(_CHARACTER[scripts], inside[first], inside[first + lengths - 1]),
        )

    @property
    def sizes(self) -> np.ndarray:
        """How many words each piece counts for, int64, in parts of `UNIT`."""
        return _SIZE[self.scripts]

    @property
    def count(self) -> float:
        """How many words there are: pieces count by their sizes."""
        return int(self.sizes.sum()) / UNIT

    def run_ends(self, n: int) -> np.ndarray:
        """Return where runs of n words end: behind the first piece with which a run has n words, int64 `[runs]`.

        Run i begins with piece i; those that would reach beyond the end are left out.
        """
        total = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.sizes)])
        if total[-1] == UNIT * len(self):  # nothing but whole words
            return np.arange(n, len(self) + 1)
        ends = np.searchsorted(total, total[:-1] + n * UNIT)
        return ends[ends < len(total)]

    def runs(self, n: int) -> np.ndarray:
        """Hash each run of n words, uint64 `[runs]`; those that would reach beyond the end are left out."""
        ends = self.run_ends(n)
        return self.hashed(np.arange(len(ends)), ends)

    def hashed(self, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Hash the runs of pieces from `begins` up to `ends` (exclusive), uint64 `[runs]`."""
        total, inverses = self._prefixes
        return mix((total[ends] - total[begins]) * inverses[begins])

    @cached_property
    def _prefixes(self) -> tuple[np.ndarray, np.ndarray]:
        """Polynomials over all pieces before each, uint64 `[pieces + 1]`, and what shifts a run of them to the beginning."""
        powers = np.cumprod(np.full(len(self), _MULTIPLIER))
        total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(self.hashes * powers)])
        return total, np.cumprod(np.full(len(self), _INVERSE))


def mix(values: np.ndarray) -> np.ndarray:
    """Apply the finalizer of splitmix64: every input bit moves every output bit (arithmetic is modulo 2^64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def count_words(line: str) -> float:
    """Count the words of a line as `Words.of(line).count` does, and quicker; of lines with such characters, marks alone count nothing."""
    if line.isascii():
        return len(line.split())
    parts = sum(size * len(pattern.findall(line)) for size, pattern in _CHARACTERS_OF_SIZE.items())
    return parts / UNIT + len(_WORD.findall(line))


def _touches(single: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Mark the pieces that have a single character beside them without white space between, bool `[pieces]`."""
    near = begins[1:] - ends[:-1] == 1
    touches = np.zeros(len(single), bool)
    touches[1:] |= near & single[:-1] & ~single[1:]
    touches[:-1] |= near & single[1:] & ~single[:-1]
    return touches


def _beginnings(kind: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Mark the characters that begin a piece, bool `[characters]`.

    Args:
        kind: kinds of all characters but white space.
        gap: whether there is white space before each but the first.
    """
    begins = np.ones(len(kind), bool)
    punctuation = kind == _PUNCTUATION
    places = np.arange(len(kind))
    # punctuation belongs to the character before it; where a run begins with it, it is like a letter with spaces
    owner = np.maximum.accumulate(np.where(punctuation & ~np.concatenate([[True], gap]), 0, places))
    script = np.where(punctuation, Script.SPACED, kind)[owner]
    begins[1:] = gap | ~punctuation[1:] & (_CHARACTER[script[1:]] | (script[1:] != script[:-1]))
    return begins


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return, for each character of the basic plane, its kind and whether it is a letter or a vowel sign."""
    kinds = np.zeros(_OTHER + 1, np.uint8)
    letters = np.zeros(_OTHER + 1, bool)
    for code in range(_OTHER + 1):
        character = chr(code)
        category = unicodedata.category(character)
        letters[code] = character.isalpha()
        if character.isspace():
            kinds[code] = _SPACE
        elif category[0] in "PS":
            kinds[code] = _PUNCTUATION
    for script, ranges in RANGES.items():
        for begin, end in ranges:
            inside = np.arange(begin, end + 1)
            inside = inside[kinds[inside] != _PUNCTUATION]
            kinds[inside] = script
            letters[inside] |= script == Script.SOUTHEAST_ASIAN  # vowel signs are no letters by themselves
    return kinds, letters
