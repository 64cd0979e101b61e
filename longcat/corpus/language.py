"""Language identification by byte n-grams (Lui and Baldwin, "langid.py", 2012), with the library py3langid."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from longcat.errors import ConfigError

_SAMPLE_CHARACTERS = 1000
_LEAD = 12.0
_FAMILY = {"yue": "zh", "wuu": "zh", "lzh": "zh", "pcm": "en", "sco": "en"}
"""Close relatives, which short texts are mistaken for, count as the main language."""


def language(text: str, expected: Sequence[str] = ()) -> str:
    """Return the ISO 639 code of a text, from its first thousand characters; `zxx` where there is no language in it.

    Args:
        text: a text.
        expected: languages that are taken to be e^12 times as likely as the others before the text is read. It decides about a
            few words ("Order delivered"), where the others' lead is small; a sentence outweighs it.
    """
    import py3langid

    ranked = py3langid.rank(text[:_SAMPLE_CHARACTERS])
    scores = {_FAMILY.get(code, code): score for code, score in reversed(ranked)}
    code = max(scores, key=lambda code: scores[code] + _LEAD * (code in expected))
    return str(code)


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
