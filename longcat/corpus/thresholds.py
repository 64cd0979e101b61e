"""Thresholds of the Gopher rules by script: those of the paper, and for scripts without spaces those of FineWeb2.

Gopher: Rae et al., arXiv 2112.11446, table A1. FineWeb2: Penedo et al., arXiv 2506.20920, the files `cmn_Hani.yml`,
`jpn_Jpan.yml`, `kor_Hang.yml` and `tha_Thai.yml` of its repository. A threshold that FineWeb2 does not set is Gopher's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from longcat.corpus.words import Script, Words

_KANA = 0.1


@dataclass(frozen=True)
class Thresholds:
    """Fractions beyond which a document is left out; the defaults are those of Gopher."""

    spaced: bool = True
    """Whether words have spaces between them, so that their length and English stop words can be asked for."""
    alphabetic: float = 0.80
    """Least fraction of words with a letter."""
    duplicate_lines: float = 0.30
    """Most lines that repeat an earlier one."""
    top_ngram: Mapping[int, float] = field(default_factory=lambda: {2: 0.20, 3: 0.18, 4: 0.16})
    """Most of a document's characters in its most frequent run of n words."""
    duplicate_ngram: Mapping[int, float] = field(
        default_factory=lambda: {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    )
    """Most of a document's characters in runs of n words that come again."""


_GOPHER = Thresholds()
_CHINESE = Thresholds(
    spaced=False,
    alphabetic=0.735,
    duplicate_lines=0.287,
    top_ngram={2: 0.256, 3: 0.201, 4: 0.171},
    duplicate_ngram={5: 0.198, 6: 0.182, 7: 0.167, 8: 0.154, 9: 0.140, 10: 0.127},
)
_JAPANESE = Thresholds(
    spaced=False,
    alphabetic=0.759,
    duplicate_lines=0.375,
    top_ngram={2: 0.121, 3: 0.129, 4: 0.145},
    duplicate_ngram={5: 0.307, 6: 0.283, 7: 0.264, 8: 0.248, 9: 0.234, 10: 0.223},
)
_KOREAN = Thresholds(
    spaced=False,
    alphabetic=0.791,
    duplicate_lines=0.374,
    top_ngram={2: 0.282, 3: 0.228, 4: 0.185},
    duplicate_ngram={5: 0.201, 6: 0.184, 7: 0.168, 8: 0.154, 9: 0.140, 10: 0.127},
)
_THAI = Thresholds(
    spaced=False,
    alphabetic=0.900,
    duplicate_lines=0.349,
    top_ngram={2: 0.221, 3: 0.197, 4: 0.162},
    duplicate_ngram={5: 0.185, 6: 0.168, 7: 0.152, 8: 0.137, 9: 0.124, 10: 0.111},
)


def of_words(words: Words) -> Thresholds:
    """Return the thresholds of the script that most words of a document are written in.

    Han is Chinese, and Japanese where at least a tenth of Han and kana is kana.
    """
    counts = np.bincount(words.scripts, weights=words.sizes, minlength=len(Script))
    hangul, southeast_asian = counts[Script.HANGUL], counts[Script.SOUTHEAST_ASIAN]
    kana = counts[Script.KATAKANA] + counts[Script.HIRAGANA]
    east_asian = counts[Script.HAN] + kana
    if counts[Script.SPACED] >= east_asian + hangul + southeast_asian:
        return _GOPHER
    if hangul > max(east_asian, southeast_asian):
        return _KOREAN
    if southeast_asian > east_asian:
        return _THAI
    return _JAPANESE if kana >= _KANA * east_asian else _CHINESE
