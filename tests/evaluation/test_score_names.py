"""A gate on a score that nobody will give is refused before anything runs."""

import re

import pytest

from longcat.errors import ConfigError
from longcat.evaluation import checks
from longcat.evaluation.checks import check_evaluation
from longcat.evaluation.suites import Suite

ITEM = {"question": "q", "choices": ["a", "b"], "answer": 0}
SUITES = "evaluation.suites=[held_out,intrinsic,tasks]"
FILTERS = [{"name": "strict", "filter": [{"function": "take_first"}]}]
GENERATION = {
    "output_type": "generate_until",
    "doc_to_choice": None,
    "generation_kwargs": {"max_gen_toks": 8},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean"}],
    "filter_list": FILTERS,
}


@pytest.fixture
def shops(tasks):
    (tasks.folder / "words.py").write_text("def score(doc, results):\n    return {'mine': 1}\n")
    tasks.add("one", [ITEM])
    tasks.add("two", [ITEM], **GENERATION)
    tasks.add("own", [ITEM])
    with (tasks.folder / "own.yaml").open("a") as stream:
        stream.write("process_results: !function words.score\n")
    aggregates = "aggregate_metric_list:\n  - {metric: acc, aggregation: mean}\n"
    (tasks.folder / "all.yaml").write_text(f"group: all\ntask: [one]\n{aggregates}")
    return tasks


def check(tasks, score, *settings, names=("all", "two", "own")):
    gate = f"evaluation.gates=[{{score: {score}, at_least: 0}}]"
    check_evaluation(tasks.config(SUITES, gate, *settings, names=names))


@pytest.mark.parametrize(
    "score",
    [
        "held_out/bits_per_byte",
        "held_out/bits_per_byte_stderr",
        "intrinsic/ece",
        "intrinsic/bits_per_byte.language.zh",
        "one/acc",
        "one/acc_norm_stderr",
        "one/documents",
        "all/acc",
        "two/exact_match.strict",
        "own/mine",
    ],
)
def test_a_gate_on_a_score_that_will_be_made_is_taken(shops, score):
    check(shops, score)


@pytest.mark.parametrize(
    ("score", "near"),
    [
        ("held_out/nosuch", ""),
        ("held_out/bits_per_bytes", "held_out/bits_per_byte"),
        ("intrinsic/nosuch", ""),
        ("one/accuracy", "one/acc"),
        ("one/exact_match", ""),
        ("all/acc_norm", "all/acc"),
        ("two/exact_match", "two/exact_match.strict"),
        ("tow/acc", "one/acc"),
    ],
)
def test_a_gate_on_a_score_that_will_not_be_made_is_refused(shops, score, near):
    message = rf"evaluation\.gates: there is no score '{score}'; there are: .*{re.escape(near)}"
    with pytest.raises(ConfigError, match=message):
        check(shops, score)


def test_a_gate_on_a_suite_that_is_not_run_is_refused(shops):
    with pytest.raises(ConfigError, match="there is no score 'intrinsic/ece'"):
        check(shops, "intrinsic/ece", "evaluation.suites=[held_out,tasks]")
    with pytest.raises(ConfigError, match="there is no score 'one/acc'"):
        check(shops, "one/acc", names=("two",))


def test_a_suite_that_does_not_say_its_scores_may_give_any_of_its_own(shops, monkeypatch):
    find = checks.find_suite
    mine = Suite(run=lambda checkpoint: None)
    monkeypatch.setattr(checks, "find_suite", lambda name: mine if name == "intrinsic" else find(name))
    check(shops, "mine/anything")
    with pytest.raises(ConfigError, match="there is no score 'held_out/nosuch'"):
        check(shops, "held_out/nosuch")
