"""The line that says how training stands."""

import math

from longcat.training.step_line import StepLine


def record(step, time, attempt=0, loss=3.5, **more):
    return {"step": step, "time": time, "attempt": attempt, "train/loss": loss} | more


FULL = {
    "held_out/loss": 3.75,
    "train/gradient_norm": 0.61234,
    "train/learning_rate": 0.0005,
    "perf/tokens_per_second": 12345.6,
    "perf/mfu": 0.0213,
    "perf/peak_memory_gb": 1.25,
}


def test_it_says_all_that_is_known():
    line = StepLine(1100, 0.0)
    assert str(line) == ""
    line.add([record(100, 1000.0, **FULL)])
    assert line.seconds_left is None
    line.add([record(600, 1500.0, loss=3.25)])
    assert str(line) == (
        "step 600 of 1,100, loss 3.250, held-out loss 3.750, gradient norm 0.612, learning rate 0.0005, "
        "12,346 tokens/s, MFU 2.1%, 1.25 GB, 8 min 20 s left"
    )


def test_what_was_never_measured_is_left_out():
    line = StepLine(10, 0.0)
    line.add([record(1, 0.0, loss=math.nan)])
    assert str(line) == "step 1 of 10, loss nan"


def test_the_pace_is_that_of_the_present_attempt():
    line = StepLine(20, 0.0)
    line.add([record(1, 0.0), record(5, 4.0)])
    assert line.seconds_left == 15
    line.add([record(5, 1000.0, attempt=1)])  # an hour was lost between
    assert line.seconds_left is None
    line.add([record(7, 1004.0, attempt=1)])
    assert line.seconds_left == 26
    line.add([record(3, 1010.0, attempt=1)])  # it went back to a good state
    assert line.seconds_left is None
    line.add([record(20, 1020.0, attempt=1)])
    assert line.seconds_left is None
    assert "left" not in str(line)


def test_a_pause_before_this_start_is_no_part_of_the_pace():
    line = StepLine(20, since=90_000.0)
    line.add([record(1, 0.0), record(5, 4.0)])
    assert line.seconds_left is None and str(line) == "step 5 of 20, loss 3.500"
    line.add([record(6, 90_010.0)])  # a day later, and again the first attempt of its start
    assert line.seconds_left is None
    line.add([record(8, 90_014.0)])
    assert line.seconds_left == 24
