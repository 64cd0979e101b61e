"""A sum over processes that is left out is found by the comparison with one process, whichever it is."""

import dataclasses

import pytest

from longcat.parallel.axes import COPIES, SUMMED_OVER, Degrees
from tests.parallel.training import EVERYTHING, EXCHANGES, LAYOUTS, Case, compare, limits, train

pytestmark = pytest.mark.slow

SIGNS = {
    "losses": "loss language_model",
    "counts": "loss language_model",
    "expert_load": "expert loads",
    "dense_gradient_square": "gradient norm",
    "divided_gradient_square": "gradient norm",
    "expert_gradient_square": "gradient norm",
    "table_gradient_square": "gradient norm",
    "stop": "requests to stop",
    "row_statistics": "loss balance",
    "gradients": "gradient norm",
}
"""What is wrong first when a quantity is not summed."""
ELSEWHERE = {(square, "pipeline"): "gradients of" for square in ("table_gradient_square", "expert_gradient_square")}
"""The same where only later stages go wrong: rank 0, whose numbers are compared, has the tables' and larger gradients."""
BROKEN = (
    Degrees(4, pipeline=2),
    LAYOUTS["context 2"],
    LAYOUTS["tensor 2"],
    LAYOUTS["shard 2"],
    LAYOUTS["expert 2"],
    LAYOUTS["replicate 2 x shard 2, expert 2"],
    LAYOUTS["shard 2 x tensor 2, expert 4"],
)
"""Layouts in which sums are left out, each in the first one where it matters: together they have several processes on
every axis."""
SMALL = Case(
    rows=4, overrides=("model.num_layers=2", *EVERYTHING[1:], "parallel.embedding=true"), padded=True, stop=True
)


def reductions(degrees):
    """Each sum of the table along each axis of a layout, and the gradients between copies."""
    sums = [(quantity, axis) for quantity, axes in SUMMED_OVER.items() for axis in axes]
    if degrees.tensor == 1:  # then no parameter is divided
        sums = [of for of in sums if not of[0].startswith("divided")]
    sums += [("gradients", axis) for axis in COPIES.values()]
    sums += EXCHANGES
    return [(quantity, axis) for quantity, axis in sums if degrees.grid_of(axis).degree(axis) > 1]


REDUCTIONS = {of: degrees for degrees in reversed(BROKEN) for of in reductions(degrees)}
REDUCTIONS["keys", "tensor"] = LAYOUTS["context 2 x tensor 2"]  # without context, keys and heads have the same group


@pytest.mark.parametrize("layout", BROKEN, ids=str)
def test_with_all_reductions_there_is_no_difference(ranks, one_process, layout):
    found = ranks.on_mesh(layout, train, SMALL, stay=True)[0]
    expected = one_process(SMALL)
    assert found.stops == [True]
    compare(found, expected, **limits(layout))


@pytest.mark.parametrize("mutation", REDUCTIONS, ids=" over ".join)
def test_a_reduction_that_is_left_out_is_found(ranks, one_process, mutation):
    broken = dataclasses.replace(SMALL, mutation=mutation)
    layout = REDUCTIONS[mutation]
    found = ranks.on_mesh(layout, train, broken, stay=True)[0]
    sign = ELSEWHERE.get(mutation) or SIGNS.get(mutation[0]) or EXCHANGES[mutation]
    with pytest.raises(AssertionError, match=sign):
        compare(found, one_process(SMALL))
