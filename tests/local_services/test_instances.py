import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.local_services import intent
from longcat.local_services.instance import around, content_of, instances, split_of
from longcat.local_services.tasks import TASKS
from longcat.local_services.text import LANGUAGES
from longcat.local_services.training_text import training_documents
from tests.local_services.guessers import words

EACH = [(name, language) for name in TASKS for language in LANGUAGES]


def some(name, language, split="evaluation", seed=0, count=16):
    return list(itertools.islice(instances(TASKS[name], language, split, seed), count))


@pytest.mark.parametrize(("name", "language"), EACH)
def test_right_answers_are_evenly_spread_and_nothing_comes_twice(name, language):
    items = some(name, language, count=32)
    assert sorted(item.answer for item in items[:16]) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert len({item.content for item in items}) == 32
    for item in items:
        assert len(set(item.choices)) == 4
        assert item.proof
    if TASKS[name].form in ("money", "time"):
        ranks = [sorted(item.choices, key=lambda text: (len(text), text)).index(item.target) for item in items[:16]]
        assert sorted(ranks) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(EACH), st.integers(0, 10**6), st.integers(0, 10**6))
def test_no_training_instance_is_an_evaluation_instance_whatever_the_seeds_and_languages(each, seed, other):
    name, language = each
    evaluation = {item.content for item in some(name, language, "evaluation", seed)}
    for second in LANGUAGES:
        training = some(name, second, "training", other)
        assert evaluation.isdisjoint(item.content for item in training)
        assert {split_of(item.content) for item in training} == {"training"}
    assert {split_of(content) for content in evaluation} == {"evaluation"}


def test_content_is_what_decides_and_nothing_else():
    first, second = some("promotions", "zh", count=2)
    assert first.content == content_of("promotions", dict(reversed(first.facts.items())))
    assert first.content != second.content
    assert first.content != content_of("dispatch", first.facts)


def test_the_same_seed_gives_the_same_instances_and_another_seed_others():
    assert some("dispatch", "en") == some("dispatch", "en")
    assert some("dispatch", "en", seed=1) != some("dispatch", "en")


def test_training_goes_on_beyond_all_there_is_to_say():
    items = some("intent", "en", "training", count=6000)
    contents = {item.content for item in items}
    assert 3000 < len(contents) < 6000
    assert len({item.question for item in items}) > 5900


def test_an_unknown_split_and_an_unknown_language_are_refused():
    with pytest.raises(ValueError, match="there is no split 'test'; there are: evaluation, training"):
        some("dispatch", "en", "test")
    with pytest.raises(ValueError, match="there is no language 'fr'; there are: zh, en"):
        next(training_documents(0, "fr", 1))


@given(st.integers(50, 100), st.lists(st.integers(0, 150), max_size=8), st.integers(0, 3), st.integers())
def test_a_number_is_on_its_place_among_wrong_ones(right, slips, rank, seed):
    wrong = around(random.Random(seed), right, slips, rank)
    if wrong is None:
        distances = {abs(slip - right) for slip in slips} - {0}
        assert len(distances) < 3 or right < 3 * max(distances)
    else:
        assert len({right, *wrong}) == 4
        assert sorted([right, *wrong]).index(right) == rank
        assert min(wrong) >= 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_training_texts_are_many_wordings_of_all_tasks(language):
    texts = list(training_documents(3, language, 90))
    assert texts == list(training_documents(3, language, 90))
    assert len(set(texts)) == 90
    assert {"答案：" in text if language == "zh" else "Answer:" in text for text in texts} == {True}
    reasons = sum("解析：" in text or "Reasoning:" in text for text in texts)
    assert 20 < reasons < 70


@pytest.mark.parametrize("language", LANGUAGES)
def test_wordings_of_intents_have_no_word_of_their_names(language):
    names = {word for kind in intent.INTENTS for word in words(kind[language][0])}
    frames = [*intent.QUESTION[language], *intent.PLAIN[language], *intent.FIRST[language], *intent.LAST[language]]
    wordings = [wording for kind in intent.INTENTS for wording in kind[language][1]]
    dishes = [dish[language] for dish in intent.DISHES]
    for text in (*frames, *wordings, *dishes):
        assert names.isdisjoint(words(text.replace("{message}", "").replace("{ticket}", "1"))), text


def test_all_wordings_of_an_intent_have_the_same_slot():
    for kind in intent.INTENTS:
        slots = [
            {slot for slot in ("dish", "n", "clock") if "{" + slot + "}" in wording}
            for language in LANGUAGES
            for wording in kind[language][1]
        ]
        assert all(slot == slots[0] and len(slot) == 1 for slot in slots)
