"""How a batch is divided among devices of different speeds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.parallel.mixed import split_rows

SPEEDS = st.lists(st.floats(0.1, 100), min_size=1, max_size=6)


@given(SPEEDS, st.integers(0, 60))
def test_every_row_goes_to_one_process_and_none_is_idle(speeds, more):
    parts = split_rows(len(speeds) + more, speeds)
    assert [row for part in parts for row in part] == list(range(len(speeds) + more))
    assert all(parts)


@given(SPEEDS, st.integers(0, 60))
def test_moving_a_row_ends_no_step_earlier(speeds, more):
    counts = [len(part) for part in split_rows(len(speeds) + more, speeds)]
    slowest = max(count / speed for count, speed in zip(counts, speeds, strict=True))
    for source in range(len(speeds)):
        for target in range(len(speeds)):
            if source != target and counts[source] > 1:
                other = list(counts)
                other[source], other[target] = other[source] - 1, other[target] + 1
                assert max(n / speed for n, speed in zip(other, speeds, strict=True)) >= slowest * (1 - 1e-9)


@pytest.mark.parametrize(("rows", "speeds"), [(1, [1, 1]), (4, [1, 0]), (4, [])])
def test_what_cannot_be_divided(rows, speeds):
    with pytest.raises(ValueError, match="cannot be divided"):
        split_rows(rows, speeds)
