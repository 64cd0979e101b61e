"""What is read from inside a model agrees with what it was made to do."""

import numpy as np
import pytest

from longcat.evaluation.intrinsic import _use, by_position, calibration
from longcat.evaluation.token_kinds import KINDS, kind_of


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (" the", "word start"),
        ("The", "word start"),
        ("ing", "inside a word"),
        ("\u00e9t\u00e9", "inside a word"),
        ("2024", "digits"),
        (" 7", "digits"),
        ("\u5916\u5356", "CJK"),
        ("\u30ab\u30fc", "CJK"),
        ("\ud55c", "CJK"),
        ("\uff0c", "punctuation"),
        ("\u3002", "punctuation"),
        (" =", "punctuation"),
        ("\n  ", "whitespace"),
        ("\ufffd", "part of a character"),
        ("", "special"),
    ],
)
def test_kind_of_a_token(text, kind):
    assert kind_of(text) == kind
    assert kind in KINDS


def test_one_who_is_right_as_often_as_he_says_is_calibrated():
    generator = np.random.default_rng(0)
    top = generator.random(200_000)
    honest = calibration(top, generator.random(200_000) < top)
    assert honest["ece"] < 0.01
    assert sum(row["tokens"] for row in honest["bins"]) == 200_000
    boastful = calibration(np.full(1000, 0.95), np.arange(1000) < 500)
    assert boastful["ece"] == pytest.approx(0.45)
    assert calibration(np.ones(3), np.ones(3, bool))["bins"][-1] == {"tokens": 3, "probability": 1.0, "right": 1.0}
    assert calibration(np.empty(0), np.empty(0, bool))["ece"] == 0


def test_positions_are_divided_by_powers_of_two():
    bits = np.tile(np.arange(10.0), (2, 1))
    learnt = np.ones((2, 10), bool)
    found = by_position(bits, np.full((2, 10), 2), learnt)
    assert [(one["first"], one["tokens"]) for one in found] == [(0, 2), (1, 2), (2, 4), (4, 8), (8, 4)]
    assert [one["bits_per_byte"] for one in found] == [0, 0.5, 1.25, 2.75, 4.25]


def test_use_of_experts():
    load = np.zeros((1, len(KINDS), 5))  # four routed ones and a zero expert
    load[0, 0, :4] = 10
    load[0, 1, 4] = 40
    found = _use(load, 4)
    [layer] = found["layers"]
    assert found["zero_fraction"] == layer["zero_fraction"] == 0.5
    assert layer["effective_experts"] == pytest.approx(4)
    assert {name: one["zero_fraction"] for name, one in layer["by kind of token"].items()} == {KINDS[0]: 0, KINDS[1]: 1}
    load[0, 0, :4] = [40, 0, 0, 0]
    assert (_use(load, 4)["layers"][0]["effective_experts"], _use(load, 4)["layers"][0]["unused_experts"]) == (1, 3)
