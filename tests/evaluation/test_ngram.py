"""The n-gram baseline against a slow one made of dictionaries, and the laws of probability."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.corpus.shards import Batch
from longcat.evaluation.ngram import NGram
from longcat.padding import IGNORE


def batch(rows):
    return Batch.of_rows(np.array(rows))


def slow_probability(rows, order, vocabulary, history, word):
    """The recursion of the docstring, word for word."""
    counts = Counter(token for row in rows for token in row[1:])
    p = (counts[word] + 1) / (sum(counts.values()) + vocabulary)
    for n in range(2, order + 1):
        if len(history) < n - 1:
            break
        grams = Counter(tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1))
        once, twice = (sum(c == k for c in grams.values()) for k in (1, 2))
        discount = once / (once + 2 * twice) if once else 0.5
        h = tuple(history[-(n - 1) :])
        followers = defaultdict(int, {g[-1]: c for g, c in grams.items() if g[:-1] == h})
        total = sum(followers.values())
        if total:
            p = (max(followers.get(word, 0) - discount, 0) + discount * len(followers) * p) / total
        else:
            break
    return p


corpora = st.lists(st.lists(st.integers(0, 4), min_size=9, max_size=9), min_size=1, max_size=6)


@given(rows=corpora, test=st.lists(st.integers(0, 4), min_size=9, max_size=9), order=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_equals_the_slow_one(rows, test, order):
    model = NGram(batch(rows), order, 5)
    *_, last = model.probabilities(batch([test]))
    expected = [slow_probability(rows, order, 5, test[:i], test[i]) for i in range(1, len(test))]
    assert last[0] == pytest.approx(expected)


@given(rows=corpora, history=st.lists(st.integers(0, 4), min_size=1, max_size=6), order=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_probabilities_sum_to_one(rows, history, order):
    model = NGram(batch(rows), order, 5)
    *_, last = model.probabilities(batch([[*history, word] for word in range(5)]))
    assert last[:, -1].sum() == pytest.approx(1)


@given(rows=corpora, order=st.integers(1, 4), cut=st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_what_is_not_learnt_counts_for_nothing(rows, order, cut):
    """The end of a row that is padding is as if it were not there."""
    whole, padded = batch([row[: cut + 1] for row in rows]), batch(rows)
    padded.targets[:, cut:] = IGNORE
    *_, expected = NGram(whole, order, 5).probabilities(whole)
    *_, found = NGram(padded, order, 5).probabilities(padded)
    assert found[:, :cut] == pytest.approx(expected)
    assert (found[:, cut:] == 1).all()
