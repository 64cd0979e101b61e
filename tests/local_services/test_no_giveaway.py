"""No guesser that does not understand the question does better, or worse, than chance on the shipped items."""

import json
import random
from statistics import NormalDist

import pytest

from longcat.local_services.tasks import TASKS
from longcat.local_services.text import LANGUAGES
from longcat.provenance import ROOT
from tests.local_services.guessers import GUESSERS, accuracy, answers_elsewhere, words_elsewhere

FOLDER = ROOT / "data/evaluation/local_services"
ITEMS = {
    (name, language): [
        json.loads(line) for line in (FOLDER / f"{name}_{language}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for name in TASKS
    for language in LANGUAGES
}
LEARNERS = {"answers of other items": answers_elsewhere, "words of other items' answers": words_elsewhere}
COMPARISONS = len(ITEMS) * (len(GUESSERS) + len(LEARNERS))
# 95 % over all comparisons together (Bonferroni)
WIDTH = NormalDist().inv_cdf(1 - 0.05 / 2 / COMPARISONS)


def measured(name, items):
    return LEARNERS[name](items) if name in LEARNERS else accuracy(GUESSERS[name], items)


@pytest.mark.parametrize("guesser", [*GUESSERS, *LEARNERS])
def test_a_guesser_is_at_chance_in_every_task_and_language_and_over_all(guesser):
    results = {each: measured(guesser, items) for each, items in ITEMS.items()}
    for each, (right, error) in results.items():
        assert abs(right - 0.25) <= WIDTH * error + 1e-9, (each, right, error)
    mean = sum(right for right, _ in results.values()) / len(results)
    error = sum(error**2 for _, error in results.values()) ** 0.5 / len(results)
    # over the guessers: a give-away too small to be seen in one task
    assert abs(mean - 0.25) <= NormalDist().inv_cdf(1 - 0.05 / 2 / len(GUESSERS)) * error + 1e-9, (mean, error)


def test_there_are_enough_items_and_positions_are_even():
    assert len(ITEMS) == 18
    for items in ITEMS.values():
        assert len(items) >= 300
        assert {sum(item["answer"] == index for item in items) for index in range(4)} == {len(items) // 4}


@pytest.mark.parametrize("spoiled", ["longest", "like the answer", "frequent"])
def test_the_guessers_would_see_a_giveaway(spoiled):
    """What the tests above exclude, put in on purpose."""
    rng = random.Random(1)
    items = []
    for _ in range(320):
        right, answer = rng.randint(20, 80), rng.randrange(4)
        choices = [str(rng.randint(20, 80)) for _ in range(4)]
        choices[answer] = str(right)
        if spoiled == "longest":
            choices[answer] += " min"
        elif spoiled == "like the answer":
            choices = [str(right + off) for off in rng.sample((-7, -3, 4, 9), 4)]
            choices[answer] = str(right)
        else:
            choices = rng.sample(["soon", "late", "never", "today"], 4)
            answer = choices.index("late") if rng.random() < 0.5 else answer
        items.append({"question": "When?", "choices": choices, "answer": answer})
    name = {"longest": "length", "like the answer": "middle number", "frequent": "answers of other items"}[spoiled]
    right, error = measured(name, items)
    assert right - 0.25 > WIDTH * error
