"""A training step of many ranks, which are threads, is that of one process."""

import dataclasses

import pytest

from longcat.parallel.axes import Degrees
from tests.parallel.training import MASKED, compare, limits, train

THREADS = {
    "replicate 2 x shard 4, expert 2": Degrees(8, expert=2, replicate=2),
    "replicate 4 x shard 4, expert 4": Degrees(16, expert=4, replicate=4),
    "replicate 4 x shard 2, expert 4": Degrees(8, expert=4, replicate=4),
    "replicate 2 x shard 2 x context 2, expert 4": Degrees(8, expert=4, replicate=2, context=2),
    "context 8, expert 4": Degrees(8, expert=4, context=8),
    "shard 2 x context 2 x tensor 2, expert 4": Degrees(8, expert=4, context=2, tensor=2),
    "replicate 2 x shard 2 x context 2 x tensor 2, expert 4": Degrees(16, expert=4, replicate=2, context=2, tensor=2),
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("layout", THREADS)
def test_a_step_of_many_ranks_is_that_of_one_process(ranks, one_process, layout):
    case = dataclasses.replace(MASKED, rows=16)
    compare(ranks.on_mesh(THREADS[layout], train, case, threads=True)[0], one_process(case), **limits(THREADS[layout]))
