"""Precision and recall on a planted set whose similarities are known exactly."""

import random

import numpy as np
import pytest

from longcat.config import NearDuplicateConfig
from longcat.corpus.near_duplicates import near_duplicates, shingles, signatures
from longcat.corpus.words import Words

CONFIG = NearDuplicateConfig()


def found(texts, config=CONFIG):
    return near_duplicates(signatures([shingles(Words.of(text), config) for text in texts], config), config).tolist()


def jaccard(a, b, words=5):
    first, second = ({*zip(*(text.split()[n:] for n in range(words)), strict=False)} for text in (a, b))
    return len(first & second) / len(first | second)


def planted(count, seed=0):
    """Documents, and for each a copy with some words changed, from nearly the same to nearly another."""
    chooser = random.Random(seed)
    vocabulary = [f"word{i}" for i in range(3000)]
    for _ in range(count):
        original = [chooser.choice(vocabulary) for _ in range(200)]
        changed = list(original)
        for place in chooser.sample(range(200), chooser.randrange(0, 30)):
            changed[place] = chooser.choice(vocabulary)
        yield " ".join(original), " ".join(changed)


@pytest.mark.parametrize("seed", range(3))
def test_precision_and_recall_on_a_planted_set(seed):
    pairs = list(planted(400, seed))
    flags = found([original for original, _ in pairs] + [copy for _, copy in pairs])
    assert not any(flags[:400])
    similarity = np.array([jaccard(original, copy) for original, copy in pairs])
    taken, near = np.array(flags[400:]), similarity >= CONFIG.threshold
    assert near.sum() > 60
    assert taken[similarity >= CONFIG.threshold + 0.1].all()  # nothing that is clearly alike was let pass
    assert not taken[similarity < CONFIG.threshold - 0.1].any()  # nothing that is clearly different was taken away
    assert near[taken].mean() > 0.85  # precision; all errors lie within 0.1 of the threshold
    assert taken[near].mean() > 0.85  # recall


def test_the_first_of_several_stays():
    one, two = (" ".join(f"{word}{n}" for n in range(50)) for word in ("a", "b"))
    assert found([one, two, one + " c", two, one]) == [False, False, True, True, True]


def test_chains_keep_their_first():
    """Each is like the one before, the last is not like the first."""
    words = [f"w{n}" for n in range(140)]
    config = NearDuplicateConfig(bands=64, rows=2, threshold=0.6)
    assert found([" ".join(words[n : n + 100]) for n in (0, 12, 24, 36)], config) == [False, True, True, True]


def test_chinese_and_short_texts():
    text = "清晨的码头很安静，第一批渔船已经带着渔网回来了。没有人注意到天气正在变化。"
    assert found([text, text + "了"]) == [False, True]
    assert found(["two words", "Two words", "two others"]) == [False, True, False]


def test_nothing_to_compare():
    assert found([]) == []
    assert found(["one"]) == [False]


@pytest.mark.parametrize(("text", "count"), [("A b c", 2), ("one", 1), ("零一二三四", 2), ("a b", 1)])
def test_shingles(text, count):
    assert len(shingles(Words.of(text), NearDuplicateConfig(shingle_words=2))) == count
