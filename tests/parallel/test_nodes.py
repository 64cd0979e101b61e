"""Who shares a node."""

import itertools

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
    remarks = crossings(degrees, names(degrees.processes // processes))
    assert len(remarks) == len(crossing)
    for remark, named in zip(remarks, crossing, strict=True):
        assert f" groups of parallel.{named} lie across nodes of {processes} process" in remark


def test_the_groups_and_what_would_stay_inside_are_named():
    [remark] = crossings(Degrees(12, expert=1, tensor=4), names(2), lambda axis, degree: degree != 3)
    assert remark.startswith(
        "1 of 3 groups of parallel.tensor=4 lie across nodes of 6 processes (ranks 4 to 7 on n0 to n1)"
    )
    assert remark.endswith("; parallel.tensor=6 or 2 or 1 would stay inside")
    [remark] = crossings(Degrees(12, expert=2), names(12), lambda axis, degree: False)
    assert "6 of 6 groups" in remark
    assert "(ranks 0 to 1 on n0 to n1, ranks 2 to 3 on n2 to n3, ranks 4 to 5 on n4 to n5 and 3 more)" in remark
    assert remark.endswith("; parallel.two_level=true would send a token to each node once")


def names(number):
    return [f"n{place}" for place in range(number)]


def test_groups_stay_inside_nodes_wherever_some_order_of_ranks_would_keep_them_there():
    """Groups of a size fill nodes of equal size without one across if, and only if, it divides theirs; whatever the order."""
    seen = 0
    for each, nodes, pipeline in itertools.product((1, 2, 3, 4, 6, 8), (1, 2, 3, 4), (1, 2, 3)):
        for axis, degree in itertools.product(("tensor", "expert"), range(1, each * nodes + 1)):
            try:
                degrees = Degrees(each * nodes, pipeline=pipeline, **{axis: degree})
            except ConfigError:
                continue
            seen += 1
            assert bool(crossings(degrees, names(nodes))) == bool(each % degree), (each, nodes, axis, degree)
    assert seen > 300
