"""Several processes, in every layout, have the gradients of one; what the table of axes promises, between real processes."""

import pytest

from longcat.parallel.axes import Degrees
from tests.parallel import parity

LAYOUTS = {
    "one": Degrees(1),
    "shard": Degrees(2),
    "expert": Degrees(2, expert=2),
    "shard x expert": Degrees(4, expert=2),
    "replicate": Degrees(2, replicate=2),
    "replicate x shard": Degrees(4, replicate=2),
    "replicate x expert": Degrees(4, expert=2, replicate=4),
    "replicate x shard x expert": Degrees(4, expert=2, replicate=2),
    "experts across replicas": Degrees(4, expert=4, replicate=2),
    "context x tensor": Degrees(4, context=2, tensor=2),
    "shard x tensor x expert": Degrees(4, expert=4, tensor=2),
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_group_has_the_one_time_limit(ranks, layout):
    ranks.on_mesh(LAYOUTS[layout], parity.timeouts, timeout_s=parity.TIMEOUT_S)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("check", [parity.shares, parity.loader])
def test_work_is_shared_as_the_table_says(ranks, layout, check):
    ranks.on_mesh(LAYOUTS[layout], check, stay=True)


@pytest.mark.parametrize("layout", ["one", "shard", "expert", "shard x expert", "replicate x shard x expert"])
@pytest.mark.parametrize("case", ["even", "starve", "everything", "documents", "recompute"])
def test_gradients_are_those_of_one_process(ranks, layout, case):
    ranks.on_mesh(LAYOUTS[layout], parity.gradients, case, stay=True)


@pytest.fixture(scope="module")
def steps(ranks, tmp_path_factory):
    """Runs the steps of a layout once."""
    done = {}

    def of(layout):
        if layout not in done:
            done[layout] = ranks.on_mesh(LAYOUTS[layout], parity.steps, tmp_path_factory.mktemp("steps"), stay=True)
        return done[layout]

    return of


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_are_those_of_one_process_and_the_same_after_a_checkpoint(steps, layout):
    (expected, expected_load), (found, found_load) = steps("one")[0], steps(layout)[0]
    assert found_load == expected_load
    assert found == pytest.approx(expected, rel=1e-4)
    assert all(result == steps(layout)[0] for result in steps(layout))
