"""Points of a sweep: a grid's are all trained, and a sampler asks for the same ones again."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.errors import ConfigError
from longcat.training.search import Range, all_of, ends_of, range_among, sampled, split_choices
from longcat.training.sweep import Point

RATE = "training.optimizer.learning_rate"


def asked(proposals, score):
    """The points that are proposed when each has this score."""
    points = []
    try:
        point = next(proposals)
        while True:
            points.append(point)
            point = proposals.send(score(point))
    except StopIteration:
        return points


def loss(point):
    return abs(float(point.settings[RATE]) - 2e-3)


def test_ranges_and_lists_are_told_apart():
    fixed, choices = split_choices(
        [f"{RATE}=1e-4..1e-2", "seed=3", "training.steps=4..8", "training.precision=fp32,bf16"]
    )
    assert fixed == ["seed=3"]
    assert choices == {
        RATE: Range("1e-4", "1e-2"),
        "training.steps": Range("4", "8"),
        "training.precision": ["fp32", "bf16"],
    }
    assert [choices[key].logarithmic for key in (RATE, "training.steps")] == [True, False]
    assert [point.settings["training.precision"] for point in ends_of(choices)] == ["fp32", "bf16"]
    assert range_among(["seed=1,2", "a=../b..c", "training.steps=4..8"]) == "training.steps"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=3..3"], "3 is not below 3"),
        (["seed=3"], "or a range of them"),
        (["seed=1..3", "seed=1,2"], "a range and a list of values"),
        (["seed=1..3", "seed=2..4"], "two ranges"),
    ],
)
def test_what_is_nothing_to_choose(overrides, message):
    with pytest.raises(ConfigError, match=message):
        split_choices(overrides)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True), min_size=1, max_size=3), st.data())
def test_a_grid_is_proposed_whole_whatever_its_scores(axes, data):
    points = [Point({str(axis): str(value) for axis, value in enumerate(one)}) for one in itertools.product(*axes)]
    scores = {id(point): data.draw(st.none() | st.floats(0, 1)) for point in points}
    assert asked(all_of(points), lambda point: scores[id(point)]) == points


def test_a_sampler_asks_for_the_same_again_and_stays_within_its_range():
    pytest.importorskip("optuna")
    choices = {RATE: Range("1e-4", "1e-2"), "training.steps": Range("4", "8")}
    first = asked(sampled(choices, 12, 0, False), loss)
    assert asked(sampled(choices, 12, 0, False), loss) == first
    assert (
        asked(sampled(choices, 8, 0, False), loss) == first[:8]
    )  # one that was killed, or is given more trials, goes on
    assert asked(sampled(choices, 12, 1, False), loss) != first
    assert all(1e-4 <= float(point.settings[RATE]) <= 1e-2 for point in first)
    assert {point.settings["training.steps"] for point in first} <= {"4", "5", "6", "7", "8"}


def test_a_point_that_comes_again_is_trained_once_and_one_that_fails_ends_nothing():
    pytest.importorskip("optuna")
    points = asked(
        sampled({"seed": ["1", "2"]}, 12, 0, True), lambda point: None if point.settings["seed"] == "1" else 1.0
    )
    assert sorted(point.settings["seed"] for point in points) == ["1", "2"]


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs Optuna: .*sweep"):
        next(sampled({"seed": ["1", "2"]}, 2, 0, False))
