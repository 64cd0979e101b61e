"""Precision and recall on a planted set whose similarities are known exactly."""

import random

import pytest

from longcat.config import NearDuplicateConfig
from longcat.corpus.near_duplicates import NearDuplicates, shingles


def jaccard(a, b, words=5):
    first, second = set(shingles(a, words)), set(shingles(b, words))
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


def test_precision_and_recall_on_a_planted_set():
    config = NearDuplicateConfig()
    known = NearDuplicates(config)
    found = {True: [], False: []}
    for original, copy in planted(300):
        assert known.is_new(original)
        found[not known.is_new(copy)].append(jaccard(original, copy))
    true = [value >= config.threshold for value in found[True]]
    sure = [value for value in found[False] if value >= config.threshold + 0.1]
    clear = [value for value in found[True] if value < config.threshold - 0.1]
    near = sum(value >= config.threshold for value in found[True] + found[False])
    assert near > 50
    assert not sure  # nothing that is clearly alike was let pass
    assert not clear  # nothing that is clearly different was taken away
    assert sum(true) / len(true) > 0.85  # precision; all errors lie within 0.1 of the threshold
    assert sum(true) / near > 0.85  # recall


def test_what_was_taken_away_is_not_remembered():
    known = NearDuplicates(NearDuplicateConfig(shingle_words=1, threshold=0.6))
    assert known.is_new("a b c d e f g h i j")
    assert not known.is_new("a b c d e f g h i k")
    assert known.is_new("a b c d w x y z i k")


def test_chinese_and_short_texts():
    known = NearDuplicates(NearDuplicateConfig())
    text = "清晨的码头很安静，第一批渔船已经带着渔网回来了。没有人注意到天气正在变化。"
    assert known.is_new(text)
    assert not known.is_new(text + "了")
    assert known.is_new("two words")
    assert not known.is_new("Two words")
    assert known.is_new("two others")


@pytest.mark.parametrize(
    ("text", "expected"), [("A b c", ["a b", "b c"]), ("one", ["one"]), ("零一二", ["零 一", "一 二"])]
)
def test_shingles(text, expected):
    assert shingles(text, 2) == expected
