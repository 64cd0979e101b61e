"""Who shares a node."""

import pytest

from longcat.errors import ConfigError
from longcat.parallel.axes import Degrees
from longcat.parallel.nodes import crossings, levels
from longcat.parallel.plan import chunk_sizes


def test_companions_by_hand():
    assert levels(range(8, 16), 13, 4) == ((9, 13), (12, 13, 14, 15))
    assert levels(range(4), 2, 1) == ((0, 1, 2, 3), (2,))
    assert levels((0, 4, 8, 12), 8, 8) == ((0, 8), (8, 12))  # every fourth rank
    assert levels(range(4, 8), 5, 8) is None


def test_uneven_nodes_are_refused_with_what_would_fit():
    message = "nodes of 4 devices have 2 or 4 of them; parallel.expert would have to be a multiple or a divisor of 4"
    with pytest.raises(ConfigError, match=message):
        levels(range(6), 0, 4)


def test_chunks_share_out_all_tokens():
    assert chunk_sizes(7, 3) == [3, 2, 2]
    assert chunk_sizes(1, 3) == [1, 0, 0]
    assert chunk_sizes(4, 1) == [4]


@pytest.mark.parametrize(
    ("degrees", "processes", "crossing"),
    [
        (Degrees(16, expert=8, tensor=8), 8, []),
        (Degrees(16, expert=16, tensor=4), 8, ["expert=16"]),
        (Degrees(16, expert=1, tensor=16), 8, ["tensor=16"]),
        (Degrees(12, expert=4, tensor=4), 6, ["tensor=4", "expert=4"]),
        (Degrees(8, expert=8, tensor=8), 8, []),
        (Degrees(16, expert=4, tensor=2, pipeline=2), 8, []),
        (Degrees(2, expert=2), 1, ["expert=2"]),
    ],
)
def test_groups_that_lie_across_nodes_are_named(degrees, processes, crossing):
    remarks = crossings(degrees, processes)
    assert len(remarks) == len(crossing)
    for remark, named in zip(remarks, crossing, strict=True):
        assert f"groups of parallel.{named} lie across nodes of {processes} process" in remark


def test_what_would_stay_inside_a_node_is_said():
    [remark] = crossings(Degrees(12, expert=1, tensor=4), 6)
    assert "parallel.tensor=2 would stay inside" in remark
