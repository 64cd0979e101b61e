"""Trainings of many steps under a layout are those of one process, and go on under another layout."""

import pytest

from tests.parallel.training import LAYOUTS, Case, check_onward, compare, limits, train

TWENTY = (
    "replicate 2 x shard 2",
    "replicate 2 x shard 2, expert 2",
    "shard 2 x context 2",
    "context 2 x tensor 2",
    "shard 2 x tensor 2, expert 4",
)
"""Layouts that are trained for longer."""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("layout", TWENTY)
def test_twenty_steps_are_those_of_one_process(ranks, one_process, layout, optimizer):
    rows = max(2, LAYOUTS[layout].batch_world)
    case = Case(rows=rows, overrides=(f"training.optimizer.name={optimizer}",), steps=20)
    found = ranks.on_mesh(LAYOUTS[layout], train, case, stay=True)[0]
    compare(found, one_process(case), numbers=1e-5, **limits(LAYOUTS[layout]))


@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        ("replicate 2 x shard 2, expert 2", "expert 2"),
        ("replicate 2 x shard 2", "replicate 2 x shard 2, expert 4"),
        ("expert 2", "replicate 2 x shard 2, expert 2"),
        ("expert 2", "replicate 2 x context 2, expert 4"),
        ("shard 2 x tensor 2, expert 4", "expert 2"),
        ("context 2 x tensor 2", "replicate 2 x tensor 2, expert 2"),
        ("replicate 2 x shard 2, expert 2", "replicate 2 x shard 2, expert 2"),
    ],
)
def test_a_checkpoint_goes_on_under_another_layout(ranks, tmp_path, saved, resumed):
    case = Case(rows=4, overrides=("training.optimizer.name=muon",), steps=4)
    straight = ranks.on_mesh(LAYOUTS[saved], train, case, tmp_path / "state", 2, stay=True)[0]
    onward = ranks.on_mesh(LAYOUTS[resumed], train, case, tmp_path / "state", None, True, stay=True)[0]
    check_onward(onward, straight, alike=saved == resumed)
