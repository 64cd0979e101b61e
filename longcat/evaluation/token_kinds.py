"""Kinds of tokens, by the text that each stands for."""

from __future__ import annotations

import unicodedata

import numpy as np
from tokenizers import Tokenizer

from longcat.corpus.tokenizer import decode, vocabulary_size

KINDS = (
    "word start",
    "inside a word",
    "digits",
    "CJK",
    "punctuation",
    "whitespace",
    "part of a character",
    "special",
)
_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "IDEOGRAPHIC", "BOPOMOFO")


def kinds_of(tokenizer: Tokenizer, vocabulary: int) -> np.ndarray:
    """Return the number in `KINDS` of each token's kind, int64 `[vocabulary]`; ids without a token are special."""
    kinds = np.full(max(vocabulary, vocabulary_size(tokenizer)), KINDS.index("special"))
    special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for index in tokenizer.get_vocab().values():
        if index not in special:
            kinds[index] = KINDS.index(kind_of(decode(tokenizer, [index])))
    return kinds


def kind_of(text: str) -> str:
    """Return the kind of a token by its text: of its first letter that is no whitespace.

    A word begins with whitespace, or with a capital letter; Chinese, Japanese and Korean are a kind of their own.
    """
    bare = text.strip()
    if not text:
        return "special"
    if not bare:
        return "whitespace"
    if "\N{REPLACEMENT CHARACTER}" in bare:
        return "part of a character"
    first = bare[0]
    if unicodedata.name(first, "").startswith(_CJK) and unicodedata.category(first).startswith(("L", "N")):
        return "CJK"
    category = unicodedata.category(first)
    if category.startswith("N"):
        return "digits"
    if not category.startswith(("L", "M")):
        return "punctuation"
    return "word start" if text[0].isspace() or first.isupper() else "inside a word"
