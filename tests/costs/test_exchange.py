"""Bytes between nodes: worked by hand, and against choices that were drawn."""

import random

import pytest

from longcat.costs.exchange import Exchange


@pytest.mark.parametrize(("nodes", "gain"), [(2, 4.02), (4, 2.22), (8, 1.52), (16, 1.24), (32, 1.11), (64, 1.06)])
def test_gain_of_two_levels_by_hand(nodes, gain):
    exchange = Exchange(slots=8, top_k=12, nodes=nodes, hidden=6144, element_bytes=2)
    assert exchange.crossings(False) / exchange.crossings(True) == pytest.approx(gain, abs=0.005)


def test_bytes_by_hand():
    exchange = Exchange(slots=2, top_k=3, nodes=2, hidden=10, element_bytes=2)
    assert exchange.link_bytes(False) == 1 * 4 * 20
    assert exchange.link_bytes(True) == 0.75 * (4 * 20 + 3 * 12)
    assert Exchange(2, 3, 1, 10, 2).link_bytes(False) == Exchange(2, 3, 1, 10, 2).link_bytes(True) == 0


@pytest.mark.parametrize(("slots", "nodes"), [(1, 2), (3, 2), (8, 4), (4, 16)])
def test_crossings_are_those_of_drawn_nodes(slots, nodes):
    draw = random.Random(0)
    flat = once = 0
    for _ in range(20_000):
        chosen = [draw.randrange(nodes) for _ in range(slots)]
        flat += sum(node != 0 for node in chosen)
        once += len(set(chosen) - {0})
    exchange = Exchange(slots, slots, nodes, 1, 1)
    assert flat / 20_000 == pytest.approx(exchange.crossings(False), rel=0.03)
    assert once / 20_000 == pytest.approx(exchange.crossings(True), rel=0.03)
