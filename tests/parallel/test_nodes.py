"""Who shares a node."""

import pytest

from longcat.errors import ConfigError
from longcat.parallel.nodes import levels
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
