import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.words import CJK_RANGES, Words, mix

CJK = "".join(f"{chr(first)}-{chr(last)}" for first, last in CJK_RANGES) + "\U00020000-\U0003ffff"
ONE_WORD = re.compile(f"[{CJK}]|[^\\s{CJK}]+")

texts = st.text(
    st.one_of(
        st.sampled_from(" \t\n\r\x0b\u00a0\u3000\u2028aAzZ09.'éÉßİΣςжЖ專专カが한ﬀ\ufeff😀🤦\U00020000\U0002a6d6𝒜"),
        st.characters(exclude_categories=["Cs"], max_codepoint=0x3FFFF),
    )
)


def slow_words(text):
    return ONE_WORD.findall(text.lower())


@given(texts)
def test_words_are_those_of_a_pattern(text):
    words, expected = Words.of(text), slow_words(text)
    assert len(words) == len(expected)
    assert words.lengths.tolist() == [len(word) for word in expected]
    assert words.is_cjk.tolist() == [bool(re.fullmatch(f"[{CJK}]", word)) for word in expected]
    basic = [place for place, word in enumerate(expected) if max(word) <= "\uffff"]
    assert words.is_alphabetic[basic].tolist() == [any(map(str.isalpha, expected[place])) for place in basic]
    assert (words.hashes.dtype, words.lengths.dtype) == (np.uint64, np.int64)
    assert (words.is_cjk.dtype, words.is_alphabetic.dtype) == (bool, bool)


@given(texts, texts)
def test_hashes_are_equal_for_equal_words_only(one, other):
    named = {}
    for text in (one, other, f"{one} {other}"):
        for word, hashed in zip(slow_words(text), Words.of(text).hashes.tolist(), strict=True):
            assert named.setdefault(word, hashed) == hashed
    assert len(set(named.values())) == len(named)


@given(st.text("abcxyzéèñжщω 'q\n"))
def test_case_does_not_count(text):
    assert np.array_equal(Words.of(text).hashes, Words.of(text.upper()).hashes)
    assert np.array_equal(Words.of(text).hashes, Words.of(text.title()).hashes)


@given(texts.filter(lambda text: not text.isspace()), st.sampled_from([" ", "\n\n", "\t \u3000"]))
def test_words_do_not_know_their_place_or_the_white_space_around(text, space):
    alone, moved = Words.of(text), Words.of(f"first{space}{text}{space}")
    assert np.array_equal(moved.hashes[1:], alone.hashes)
    assert np.array_equal(moved.is_alphabetic[1:], alone.is_alphabetic)


@pytest.mark.parametrize("text", ["", " ", "\n\t\u3000\u00a0"])
def test_nothing_has_no_words(text):
    words = Words.of(text)
    assert len(words) == 0
    assert [len(words.runs(n)) for n in (1, 2, 13)] == [0, 0, 0]
    for array in (words.hashes, words.lengths, words.is_cjk, words.is_alphabetic):
        assert array.shape == (0,)


def test_chinese_japanese_and_korean_characters_are_words_of_their_own():
    words = Words.of("用GPT-4写代码,ひらカナ한국 \U00020000\U0002a6d6end")
    assert words.lengths.tolist() == [1, 5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3]
    assert words.is_cjk.tolist() == [True, False, True, True, True, False] + [True] * 8 + [False]


def test_emoji_are_characters_of_ordinary_words():
    words = Words.of("so 😀😀good👍🏽 👩‍👩‍👧")
    assert words.lengths.tolist() == [2, 8, 5]
    assert not words.is_cjk.any()
    assert words.is_alphabetic.tolist() == [True, True, False]
    assert len(set(Words.of("😀 😁 \U00020000 \U00020001 一").hashes.tolist())) == 5


@pytest.mark.xfail(strict=True, reason="every code from U+20000 on is taken for Han: tags and variation selectors too")
@pytest.mark.parametrize("text", ["🏴\U000e0067\U000e0062\U000e007f", "葛\U000e0100"[1:], "a\U000e0001b"])
def test_tags_and_variation_selectors_are_no_chinese_characters(text):
    assert not Words.of(text).is_cjk.any()


@pytest.mark.xfail(strict=True, reason="all other characters beyond the basic plane are taken for U+FFFF, no letter")
@pytest.mark.parametrize("text", ["𞤀𞤣𞤤𞤢𞤥", "𐐀𐐩", "𝒜"])
def test_letters_beyond_the_basic_plane_are_letters(text):
    assert text.isalpha()
    assert Words.of(text).is_alphabetic.all()


def test_words_of_more_than_256_characters_have_their_own_hash():
    long = ["a" * 256, "a" * 257, "a" * 300, "a" * 299 + "b", "b" + "a" * 299]
    assert len(set(Words.of(" ".join(long)).hashes.tolist())) == len(long)


@given(st.lists(st.sampled_from("ab c专"), max_size=30).map("".join), st.integers(1, 6))
def test_runs_are_equal_for_equal_words_in_the_same_order_only(text, n):
    words = slow_words(text)
    expected = [tuple(words[begin : begin + n]) for begin in range(max(0, len(words) - n + 1))]
    runs = Words.of(text).runs(n).tolist()
    assert len(runs) == len(expected)
    assert len(set(zip(runs, expected, strict=True))) == len(set(runs)) == len(set(expected))


def test_asking_for_runs_leaves_the_hashes_alone():
    words = Words.of("one two three four")
    before = words.hashes.copy()
    assert not np.array_equal(words.runs(2), words.runs(2)[::-1])
    words.runs(4)
    assert np.array_equal(words.hashes, before)


def test_mixing_is_one_to_one():
    values = np.arange(1 << 16, dtype=np.uint64)
    assert len(np.unique(mix(values))) == len(values)
    assert np.array_equal(values, np.arange(1 << 16, dtype=np.uint64))
