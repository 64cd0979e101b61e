"""Language identification by byte n-grams (Lui and Baldwin, "langid.py", 2012), with the library py3langid."""

from __future__ import annotations

import difflib

from longcat.errors import ConfigError

_SAMPLE_CHARACTERS = 1000
_FAMILY = {"yue": "zh", "wuu": "zh", "lzh": "zh", "pcm": "en", "sco": "en"}
"""Close relatives, which short texts are mistaken for, count as the main language."""


def language(text: str) -> str:
    """Return the ISO 639 code of a text, from its first thousand characters; `zxx` where there is no language in it."""
    import py3langid

    code: str = py3langid.classify(text[:_SAMPLE_CHARACTERS])[0]
    return _FAMILY.get(code, code)


def check_languages(codes: list[str]) -> None:
    """Refuse language codes that `language` never returns.

    Raises:
        ConfigError: naming the unknown code and the known ones.
    """
    if not codes:
        return
    import py3langid

    known = {str(code) for code, _ in py3langid.rank("")} - set(_FAMILY)
    for code in codes:
        if code not in known:
            nearest = _FAMILY.get(code) or next(
                iter(difflib.get_close_matches(code, sorted(known), n=1, cutoff=0.6)), None
            )
            raise ConfigError(
                f"corpus.languages: {code!r} is not a language that is recognised"
                + (f"; did you mean {nearest!r}?" if nearest else "")
                + f"; codes are {', '.join(sorted(known))}"
            )
