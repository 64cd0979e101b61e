"""The language of a text, by byte n-grams (Lui and Baldwin, "langid.py", 2012), with the library py3langid."""

from __future__ import annotations

_SAMPLE_CHARACTERS = 1000
_FAMILY = {"yue": "zh", "wuu": "zh", "lzh": "zh", "pcm": "en", "sco": "en"}
"""Relatives that short texts are mistaken for count as the language they are close to."""


def language(text: str) -> str:
    """ISO 639 code of a text, from its first thousand characters; `zxx` where there is no language in it."""
    import py3langid

    code: str = py3langid.classify(text[:_SAMPLE_CHARACTERS])[0]
    return _FAMILY.get(code, code)
