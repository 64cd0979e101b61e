"""Gates judge scores by their bounds and by the champion's, and say why."""

import pytest

from longcat.config import load_config
from longcat.config.evaluation import Gate
from longcat.errors import ConfigError
from longcat.evaluation.gates import judge, lower_is_better

NAN = float("nan")


@pytest.mark.parametrize(
    ("gate", "value", "champion", "passed"),
    [
        ({"at_least": 0.5}, 0.5, None, True),
        ({"at_least": 0.5}, 0.49, None, False),
        ({"at_most": 0.0}, 0.0, None, True),
        ({"at_most": 2.0}, 2.1, None, False),
        ({"at_least": 0.5}, NAN, None, False),
        ({"at_most": 0.5}, NAN, None, False),
        ({"no_worse_than_champion": True}, 0.3, None, True),
        ({"no_worse_than_champion": True}, NAN, None, False),
        ({"no_worse_than_champion": True}, NAN, 0.3, False),
        ({"no_worse_than_champion": True}, 0.3, 0.3, True),
        ({"no_worse_than_champion": True}, 0.29, 0.3, False),
        ({"no_worse_than_champion": True, "margin": 0.02}, 0.29, 0.3, True),
        ({"no_worse_than_champion": True, "lower_is_better": True}, 0.29, 0.3, True),
        ({"no_worse_than_champion": True, "lower_is_better": True}, 0.31, 0.3, False),
    ],
)
def test_a_gate(gate, value, champion, passed):
    best = None if champion is None else {"task/acc": champion}
    [found] = judge([Gate(score="task/acc", **gate)], {"task/acc": value}, best)
    assert found.passed is passed
    assert found.reason.startswith(f"task/acc {value:.6g}")


def test_lower_bits_are_better_and_a_new_score_is_not_the_champions():
    gate = Gate(score="held_out/bits_per_byte", no_worse_than_champion=True)
    scores = {"held_out/bits_per_byte": 2.0}
    assert [judge([gate], scores, {"held_out/bits_per_byte": best})[0].passed for best in (2.1, 1.9)] == [True, False]
    [missing] = judge([gate], scores, {"other/acc": 1.0})
    assert (missing.passed, "the champion has no such score" in missing.reason) == (False, True)


@pytest.mark.parametrize(
    "name", ["bits_per_byte", "word_perplexity", "ece", "loss", "brier_score", "byte_perplexity.none"]
)
def test_of_these_less_is_better(name):
    assert lower_is_better(f"a/b/{name}")
    assert not any(map(lower_is_better, ["t/acc", "loss/acc_norm", "t/exact_match.strict", "t/f1", "t/bitstring"]))


def test_a_score_that_was_not_made_is_named():
    with pytest.raises(ConfigError, match=r"there is no score 'held_out/bits'; there are: held_out/bits_per_byte"):
        judge([Gate(score="held_out/bits", at_most=3)], {"held_out/bits_per_byte": 2.0, "t/acc": 0.1}, None)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("{score: acc, at_least: 1}", "score='acc' is not SUBJECT/METRIC"),
        ("{score: /acc, at_least: 1}", "is not SUBJECT/METRIC"),
        ("{score: t/acc}", "this one has 0"),
        ("{score: t/acc, at_least: 1, at_most: 2}", "this one has 2"),
        ("{score: t/acc, no_worse_than_champion: false}", "this one has 0"),
        ("{score: t/acc, at_least: 1, margin: 0.1}", "margin and lower_is_better belong to"),
        ("{score: t/acc, no_worse_than_champion: true, margin: -1}", "greater than or equal to 0"),
        ("{score: t/acc, at_least: .nan}", "finite number"),
        ("{score: t/acc, atleast: 1}", "unknown key"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(gate, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        load_config("smoke", overrides=[f"evaluation.gates=[{gate}]"])
