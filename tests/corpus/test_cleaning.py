import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.cleaning import Dropped, clean

text_strategy = st.text(st.characters(exclude_categories=["Cs"]))


@given(text_strategy)
def test_clean_text_is_normal_and_stays_as_it_is(text):
    once = clean(text, 0, 10**6)
    if isinstance(once, Dropped):
        assert once.reason == "empty"
        return
    assert clean(once, 0, 10**6) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(letter) == "Cc" and letter not in "\t\n" for letter in once)


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n"),
        ("a\r\x00\nb", "a\nb"),
        ("\ufeffhello", "hello"),
        ("\ufeff\x00\ufeffhello", "hello"),
        ("e\x00\u0301", "é"),
        ("\tindented\n", "\tindented\n"),
        ("零专家", "零专家"),
    ],
)
def test_forms(dirty, expected):
    assert clean(dirty, 0, 100) == expected


@pytest.mark.parametrize(
    ("text", "reason"), [("", "empty"), (" \n\t\x00", "empty"), ("abc", "too_short"), ("x" * 11, "too_long")]
)
def test_reasons(text, reason):
    assert clean(text, 4, 10) == Dropped(reason)


@pytest.mark.parametrize("text", ["abcd", "x" * 10])
def test_limits_are_inclusive(text):
    assert clean(text, 4, 10) == text
