"""Rules that leave out documents, or lines of them: those of Gopher and C4.

Gopher: Rae et al., arXiv 2112.11446, appendix A.1. C4: Raffel et al., arXiv 1910.10683, section 2.2, and the rules of its
code (`c4_utils.py` of TensorFlow Datasets). Both were made for English. Lengths are in words of `longcat.corpus.words`,
thresholds those of the script (`longcat.corpus.thresholds`); rules about the length of words and about English stop words
are not asked of texts in a script without spaces.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from longcat.corpus.normal_form import normal_form
from longcat.corpus.own_functions import OwnFunction
from longcat.corpus.thresholds import Thresholds, of_words
from longcat.corpus.words import RANGES, Script, Words, count_words
from longcat.errors import ConfigError
from longcat.extensions import FILTERS, registered

_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$|[\"'”’)])|[。！？．｡؟।]+")
_LINE_END = (*".!?。！？．｡؟।", *"\"'”’」』")
_ELLIPSIS = ("...", "…", "。。。")
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed|编辑|編輯|编辑源代码|来源请求|來源請求|編集|要出典)\]")
_LONG_WORD_CHARACTERS = 1000
_UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for ranges in RANGES.values() for first, last in ranges)
_LONG_WORD = re.compile(f"[^\\s{_UNSPACED}]{{{_LONG_WORD_CHARACTERS + 1},}}")
_BULLETS = ("•", "-", "*", "·", "‣", "◦", "●")
_STOP_WORDS = "the be to of and that have with"
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


@dataclass(frozen=True)
class Document:
    """A text and the features that several rules need, computed once."""

    text: str

    @cached_property
    def words(self) -> Words:
        """The words of the text."""
        return Words.of(self.text)

    @cached_property
    def normal_form(self) -> str:
        """The form in which the text is compared with others; its own where nothing but marks is in it."""
        return normal_form(self.text) or self.text

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not empty, without white space around them."""
        return [line.strip() for line in self.text.split("\n") if line.strip()]

    @cached_property
    def thresholds(self) -> Thresholds:
        """The thresholds of the script that the text is written in."""
        return of_words(self.words)


def _word_count(document: Document) -> bool:
    return not 50 <= document.words.count <= 100_000


def _word_length(document: Document) -> bool:
    spaced = document.words.scripts == Script.SPACED
    return document.thresholds.spaced and not 3 <= document.words.lengths[spaced].mean() <= 10


def _symbols(document: Document) -> bool:
    ellipses = document.text.count("...") + document.text.count("…")
    return max(document.text.count("#"), ellipses) > 0.1 * document.words.count


def _bullets(document: Document) -> bool:
    return sum(line.startswith(_BULLETS) for line in document.lines) > 0.9 * len(document.lines)


def _ellipses(document: Document) -> bool:
    return sum(line.endswith(("...", "…")) for line in document.lines) > 0.3 * len(document.lines)


def _alphabetic(document: Document) -> bool:
    sizes = document.words.sizes
    return int(sizes[document.words.is_alphabetic].sum()) < document.thresholds.alphabetic * int(sizes.sum())


@cache
def _stop_words_hashed() -> np.ndarray:
    return Words.of(_STOP_WORDS).hashes


def _stop_words(document: Document) -> bool:
    if not document.thresholds.spaced:
        return False
    return int((document.words.hashes[:, None] == _stop_words_hashed()).any(0).sum()) < 2


def _repeated(parts: list[str], by_count: float, by_characters: float) -> bool:
    """Decide whether repetitions of earlier parts exceed a fraction of all parts, by number or by characters."""
    if not parts:
        return False
    repetitions = {part: count - 1 for part, count in Counter(parts).items() if count > 1}
    characters = sum(len(part) * count for part, count in repetitions.items())
    return sum(repetitions.values()) > by_count * len(parts) or characters > by_characters * sum(map(len, parts))


def _duplicate_lines(document: Document) -> bool:
    return _repeated(document.lines, document.thresholds.duplicate_lines, 0.20)


def _duplicate_paragraphs(document: Document) -> bool:
    return _repeated([part.strip() for part in re.split(r"\n\s*\n", document.text) if part.strip()], 0.30, 0.20)


def _top_ngrams(document: Document) -> bool:
    words = document.words
    characters = np.concatenate([[0], np.cumsum(words.lengths)])
    for n, share in document.thresholds.top_ngram.items():
        ends = words.run_ends(n)
        if not len(ends):
            return False
        hashed = words.hashed(np.arange(len(ends)), ends)
        different, counts = np.unique(hashed, return_counts=True)
        most = int(counts.max())
        if most == 1:  # nor does any longer run come twice
            return False
        # of several that are as frequent, the one that comes first
        first = int(np.isin(hashed, different[counts == most]).argmax())
        if most * int(characters[ends[first]] - characters[first]) > share * characters[-1]:
            return True
    return False


def _duplicate_ngrams(document: Document) -> bool:
    """Decide whether repeated n-grams cover too many characters, each character counted once."""
    total = int(document.words.lengths.sum())
    thresholds = document.thresholds.duplicate_ngram
    least = min(thresholds.values())
    for n, share in thresholds.items():
        characters = _repeated_characters(document.words, n)
        if characters > share * total:
            return True
        if characters <= least * total:  # what is covered by longer runs is covered by these
            return False
    return False


def _repeated_characters(words: Words, n: int) -> int:
    """Count the characters in runs of n words that occurred before."""
    ends = words.run_ends(n)
    hashed = words.hashed(np.arange(len(ends)), ends)
    ordered = np.sort(hashed)
    if not (ordered[1:] == ordered[:-1]).any():
        return 0
    _, first, where = np.unique(hashed, return_index=True, return_inverse=True)
    repeated = np.flatnonzero(first[where] != np.arange(len(hashed)))
    edges = np.zeros(len(words) + 1, np.int64)
    np.add.at(edges, repeated, 1)
    np.add.at(edges, ends[repeated], -1)
    return int(words.lengths[edges[:-1].cumsum() > 0].sum())


def _sentences(document: Document) -> bool:
    return len(_SENTENCE_END.findall(document.text)) < 3


def _lorem_ipsum(document: Document) -> bool:
    return "lorem ipsum" in document.text.lower()


def _curly_bracket(document: Document) -> bool:
    return "{" in document.text


def _keep_punctuated(line: str) -> bool:
    stripped = line.rstrip()
    return stripped.endswith(_LINE_END) and not stripped.endswith(_ELLIPSIS)


def _keep_without_long_word(line: str) -> bool:
    return len(line) <= _LONG_WORD_CHARACTERS or _LONG_WORD.search(line) is None


def _keep_long(line: str) -> bool:
    return count_words(line) >= 5


def _keep_not_javascript(line: str) -> bool:
    return "javascript" not in line.lower()


def _keep_not_policy(line: str) -> bool:
    lower = line.lower()
    return not any(phrase in lower for phrase in _POLICY)


def _without_citations(line: str) -> str:
    return _CITATION.sub("", line) if "[" in line else line


LINE_EDITS: dict[str, Callable[[str], str]] = {"c4_line_citations": _without_citations}
"""Rules that change lines, before others judge them."""

LINE_RULES: dict[str, Callable[[str], bool]] = {
    "c4_line_long_word": _keep_without_long_word,
    "c4_line_punctuation": _keep_punctuated,
    "c4_line_words": _keep_long,
    "c4_line_javascript": _keep_not_javascript,
    "c4_line_policy": _keep_not_policy,
}
"""Rules for lines: lines for which a rule is false are cut out before documents are judged."""

DOCUMENT_RULES: dict[str, Callable[[Document], bool]] = {
    "c4_sentences": _sentences,
    "c4_lorem_ipsum": _lorem_ipsum,
    "c4_curly_bracket": _curly_bracket,
    "gopher_word_count": _word_count,
    "gopher_word_length": _word_length,
    "gopher_symbols": _symbols,
    "gopher_bullets": _bullets,
    "gopher_ellipses": _ellipses,
    "gopher_alphabetic": _alphabetic,
    "gopher_stop_words": _stop_words,
    "gopher_duplicate_lines": _duplicate_lines,
    "gopher_duplicate_paragraphs": _duplicate_paragraphs,
    "gopher_top_ngrams": _top_ngrams,
    "gopher_duplicate_ngrams": _duplicate_ngrams,
}
"""Rules for documents: a document is left out by the first rule that is true."""


class Filter:
    """Some of the rules in their fixed order, and functions of the user's own after them."""

    def __init__(self, filters: list[str]) -> None:
        """Look the rules up.

        Args:
            filters: names of rules, of groups of rules, and of functions: registered ones (`longcat.extensions.FILTERS`), or
                `package.module:function`.

        Raises:
            ConfigError: there is no such rule, group or function.
        """
        own = [name for name in dict.fromkeys(filters) if _is_own(name)]
        chosen = {rule for name in filters if name not in own for rule in _rules_of(name)}
        self.line_rules = [name for name in (*LINE_EDITS, *LINE_RULES) if name in chosen]
        """Names of the rules that change lines or cut them out."""
        self.document_rules = [name for name in DOCUMENT_RULES if name in chosen]
        """Names of the rules that leave documents out."""
        self.own = [OwnFunction.load(name, "corpus.filters=", FILTERS) for name in own]
        """Functions that say whether a text is kept."""
        self._edits = [edit for name, edit in LINE_EDITS.items() if name in chosen]
        self._lines = [keeps for name, keeps in LINE_RULES.items() if name in chosen]
        self._documents = [(name, DOCUMENT_RULES[name]) for name in self.document_rules]

    @property
    def reasons(self) -> list[str]:
        """The reasons for which documents may be left out, in the order of the questions."""
        return [*self.document_rules, *(own.name for own in self.own)]

    def lines(self, text: str) -> str:
        """Change lines and cut out those that some rule does not keep; without such rules the text stays the same object."""
        if not self.line_rules:
            return text
        lines = text.split("\n")
        for edit in self._edits:
            lines = [edit(line) for line in lines]
        return "\n".join(line for line in lines if all(keeps(line) for keeps in self._lines))

    def verdict(self, document: Document) -> str | None:
        """Return the first reason to leave a document out, or None.

        Raises:
            ConfigError: a function of the user's own failed, or returned something else than True or False.
        """
        for name, leaves_out in self._documents:
            if leaves_out(document):
                return name
        for own in self.own:
            kept = own(document.text)
            if not isinstance(kept, bool | np.bool_):
                raise own.failed(f"it returned {kept!r}; expected True for a document to keep, or False")
            if not kept:
                return own.name
        return None


def rule_groups() -> dict[str, list[str]]:
    """Map each group, the part of a rule's name before the first underscore, to its rules."""
    groups: dict[str, list[str]] = {}
    for name in [*LINE_EDITS, *LINE_RULES, *DOCUMENT_RULES]:
        groups.setdefault(name.partition("_")[0], []).append(name)
    return groups


def _is_own(name: str) -> bool:
    """Whether a name stands for a function of the user's own; built-in rules and groups go first."""
    built_in = name in rule_groups() or any(name in rules for rules in (LINE_EDITS, LINE_RULES, DOCUMENT_RULES))
    return ":" in name or (not built_in and name in registered(FILTERS))


def _rules_of(name: str) -> list[str]:
    """Return the rules that a name stands for."""
    groups = rule_groups()
    rules = [*LINE_EDITS, *LINE_RULES, *DOCUMENT_RULES]
    if name in groups or name in rules:
        return groups.get(name, [name])
    own = list(registered(FILTERS))
    near = difflib.get_close_matches(name, [*groups, *rules, *own], n=1, cutoff=0.6)
    raise ConfigError(
        f"corpus.filters: there is no rule {name!r}"
        + (f"; did you mean {near[0]!r}?" if near else "")
        + f"; groups are {', '.join(groups)}, which stand for all of their rules; rules are {', '.join(rules)}; "
        + (f"registered ones are {', '.join(own)}; " if own else "")
        + "a function of your own is package.module:function"
    )
