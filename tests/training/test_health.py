"""Judging steps: skipped ones, spikes that cannot shift what they are measured by, and the batches that are passed over."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.config import load_config
from longcat.errors import DivergedError
from longcat.training.health import FEWEST, Health


def health(*settings, steps=1000):
    chosen = [f"training.{setting}" for setting in (f"steps={steps}", *settings)]
    return Health(load_config("smoke", None, chosen).training)


def test_a_skipped_step_is_counted_and_a_finite_one_ends_the_row():
    judge = health("max_skipped_steps=3")
    verdicts = [judge.judge(step, loss, loss != loss) for step, loss in enumerate([5.0, math.nan, math.nan, 5.0], 1)]
    assert verdicts == ["good", "skipped", "skipped", "good"]
    assert (judge.skipped, judge.skipped_in_a_row, judge.accepted) == (2, 0, 4)
    assert judge.position(4) == 4


def test_too_many_in_a_row_go_back_and_the_batches_are_passed_over():
    judge = health("max_skipped_steps=3")
    for step in (1, 2, 3, 4):
        judge.judge(step, 5.0, False)
    saved = json.loads(json.dumps(judge.state()))
    assert [judge.judge(step, math.nan, True) for step in (5, 6, 7)] == ["skipped", "skipped", "rewind"]
    assert judge.rewound(7, 4, saved) == (4, 6)
    assert [judge.position(step) for step in (3, 4, 5)] == [6, 7, 8]
    assert (judge.skipped, judge.skipped_in_a_row, judge.accepted) == (3, 0, 4)
    assert judge.passed_over == [[4, 6]]
    # a checkpoint of later steps has it
    again = health("max_skipped_steps=3")
    again.restore(json.loads(json.dumps(judge.state())))
    assert again.state() == judge.state()
    assert again.position(4) == 7


def test_going_back_without_progress_ends_the_run():
    judge = health("max_skipped_steps=2", "optimizer.learning_rate=1e30")
    judge.judge(1, 5.0, False)
    assert [judge.judge(step, math.nan, True) for step in (2, 3)] == ["skipped", "rewind"]
    judge.rewound(3, 0, {})
    assert judge.position(0) == 3
    judge.judge(1, 5.0, False)
    judge.judge(2, math.nan, True)
    with pytest.raises(
        DivergedError, match=r"2 steps in a row up to step 3 .* gone back from step 3 .*\(now 1e\+30\)"
    ) as told:
        judge.judge(3, math.nan, True)
    assert told.value.exit_code == 2
    assert "\n" not in str(told.value)


def test_going_back_again_after_progress_is_no_end():
    judge = health("max_skipped_steps=2")
    assert [judge.judge(step, math.nan, True) for step in (1, 2)] == ["skipped", "rewind"]
    judge.rewound(2, 0, {})
    assert [judge.judge(step, value, value != value) for step, value in enumerate([5.0, math.nan, math.nan], 1)][
        -1
    ] == "rewind"
    assert judge.rewound(3, 0, {}) == (0, 4)  # what was passed over before, too
    assert judge.position(0) == 5


def test_the_last_step_is_done_with_another_batch_until_it_is_finite():
    judge = health("max_skipped_steps=3", steps=4)
    for step in (1, 2, 3):
        judge.judge(step, 5.0, False)
    assert judge.judge(4, math.nan, True) == "again"
    assert judge.position(3) == 4
    assert judge.judge(4, math.nan, True) == "again"
    assert judge.position(3) == 5
    assert judge.passed_over == [[3, 4]]
    assert judge.judge(4, 5.0, False) == "good"
    worse = health("max_skipped_steps=2", steps=4)
    assert [worse.judge(4, math.nan, True) for _ in range(2)] == ["again", "rewind"]


def flat(judge, count=40, level=5.0):
    for step in range(1, count + 1):
        assert judge.judge(step, level + 0.01 * (-1) ** step, False) == "good"
    return count


def test_a_spike_is_told_and_is_no_part_of_what_the_next_is_measured_by():
    judge = health()
    step = flat(judge)
    limit = judge.limit()
    assert limit == pytest.approx(5.0 * 1.05, abs=0.05)
    for number in range(1, 60):
        assert judge.judge(step + number, 50.0, False) == "spike"
        assert judge.limit() == limit
    assert judge.accepted == step
    assert judge.judge(step + 60, 5.0, False) == "good"


def test_a_falling_loss_has_no_spikes():
    judge = health()
    for step in range(1, 500):
        assert judge.judge(step, 11 * step**-0.3 + 0.05 * math.sin(step * 12.9898), False) == "good"


def test_a_level_that_lasts_is_the_new_one():
    judge = health("spike_window_steps=25")
    step = flat(judge)
    for number in range(1, 26):
        assert judge.judge(step + number, 9.0, False) == "spike"
    assert judge.limit() is None
    for number in range(26, 26 + FEWEST):
        assert judge.judge(step + number, 9.0, False) == "good"
    assert judge.limit() == pytest.approx(9.45)


def test_a_spike_can_go_back_or_be_ignored():
    judge = health("loss_spikes=rewind")
    step = flat(judge)
    assert judge.judge(step + 1, 50.0, False) == "rewind"
    ignored = health("loss_spikes=ignore")
    assert ignored.judge(flat(ignored) + 1, 50.0, False) == "good"


def test_few_losses_judge_nothing():
    judge = health()
    step = flat(judge, FEWEST - 1)
    assert judge.judge(step + 1, 500.0, False) == "good"


@given(st.lists(st.floats(20, 1e6), min_size=1, max_size=99))
def test_no_row_of_spikes_moves_the_limit(losses):
    judge = health()
    step = flat(judge)
    limit = judge.limit()
    for number, loss in enumerate(losses, 1):
        assert judge.judge(step + number, loss, False) == "spike"
    assert judge.limit() == limit
