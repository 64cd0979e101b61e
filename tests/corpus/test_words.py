import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.words import CJK_RANGES, Words

CJK = "".join(f"{chr(first)}-{chr(last)}" for first, last in CJK_RANGES)
# beyond the basic plane only ideographs are words of their own
PATTERN = re.compile(f"[{CJK}\U00020000-\U0010ffff]|[^\\s{CJK}\U00020000-\U0010ffff]+")
alphabet = st.sampled_from("aBé零か한😀𠀀 \n\t\u3000.1")
texts = st.text(alphabet, max_size=60)


@given(texts)
def test_words_are_those_of_a_slow_search(text):
    words, expected = Words.of(text), PATTERN.findall(text.lower())
    assert words.lengths.tolist() == [len(word) for word in expected]
    assert words.is_alphabetic.tolist() == [any(map(str.isalpha, word)) for word in expected]
    same = np.equal.outer(words.hashes, words.hashes)
    assert same.tolist() == [[a == b for a in expected] for b in expected]


@given(texts, st.integers(1, 5))
def test_runs_are_equal_where_their_words_are(text, n):
    words, expected = Words.of(text), PATTERN.findall(text.lower())
    runs = [tuple(expected[i : i + n]) for i in range(max(0, len(expected) - n + 1))]
    hashed = words.runs(n).tolist()
    assert len(hashed) == len(runs)
    assert len(set(hashed)) == len(set(runs))


def test_order_counts_and_case_does_not():
    one, two = Words.of("ab ba AB a b"), Words.of("零一零")
    assert len(set(one.hashes.tolist())) == 4
    assert one.hashes[0] == one.hashes[2]
    assert two.is_cjk.all()
    assert two.hashes[0] == two.hashes[2] != two.hashes[1]


def test_hashes_do_not_change():
    # they are in artifacts' decisions: whoever changes them has to raise STAGE_VERSION
    assert Words.of("Hello, 世界").hashes.tolist() == [1022314115408765683, 6620157912976568020, 8776319729502821753]
