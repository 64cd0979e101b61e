"""Tokens on their way to experts: the same result however they travel, behind other work, and no more of them than need be."""

import pytest

from longcat.costs.exchange import Exchange
from longcat.parallel.axes import Degrees
from tests.parallel import exchange

pytestmark = pytest.mark.slow

TWO, FOUR, MIXED = Degrees(2, 2), Degrees(4, 4), Degrees(4, 2)
FLAT, CHUNKED = {}, {"chunks": 3}
NODES = {"two_level": True, "devices_per_node": 2}
ALONE = {"two_level": True, "devices_per_node": 1}
BOTH = {**NODES, "chunks": 2}


LAYOUTS = {
    "2 in chunks": (TWO, CHUNKED),
    "2 nodes of 1": (TWO, ALONE),
    "4": (FOUR, FLAT),
    "2 nodes of 2": (FOUR, NODES),
    "2 nodes of 2 in chunks": (FOUR, BOTH),
    "twice 2 nodes of 1 in chunks": (MIXED, {**ALONE, "chunks": 2}),
}


@pytest.mark.parametrize("case", ["even", "recompute", "everything", "starve", "zero"])
@pytest.mark.parametrize(("degrees", "settings"), LAYOUTS.values(), ids=LAYOUTS)
def test_the_result_is_that_of_one_process(ranks, degrees, settings, case):
    ranks.on_mesh(degrees, exchange.parity, settings, case, stay=True)


@pytest.mark.parametrize("settings", [FLAT, CHUNKED, ALONE])
def test_gradients_in_bf16_point_the_same_way(ranks, settings):
    for similarities in ranks.on_mesh(TWO, exchange.in_bf16, settings, stay=True):
        assert min(similarities) > 0.98, similarities


@pytest.mark.parametrize("settings", [FLAT, CHUNKED, ALONE])
def test_the_host_reads_once_a_layer(ranks, settings):
    assert ranks.on_mesh(TWO, exchange.reads, settings, stay=True) == [({"tolist": 2}, {})] * 2


def test_dense_work_runs_beside_the_exchange_in_both_passes(ranks):
    for forward, backward in ranks.on_mesh(TWO, exchange.order_of_work, FLAT, stay=True):
        second = ["+", "-", "+", "-"]  # of the second layer only the exchanges are seen
        assert forward == ["+", "dense 0", "-", "+", "experts", "dense 1", "-", *second]
        assert backward == [*second, "+", "dense 1 back", "-", "+", "dense 0 back", "-"]
    for forward, backward in ranks.on_mesh(TWO, exchange.order_of_work, {"chunks": 2}, stay=True):
        # the second chunk's rows are on their way while the first one's experts compute
        assert forward[:9] == ["+", "+", "dense 0", "-", "+", "-", "+", "experts", "dense 1"]
        assert backward[-10:] == ["+", "+", "dense 1 back", "-", "+", "-", "+", "dense 0 back", "-", "-"]


def routed_slots(chosen, experts):
    """How often a token of each layer chose each of these experts."""
    return sum(expert in experts for layer in chosen for token in layer for expert in token)


def tokens_with(chosen, experts):
    """How many tokens of all layers chose one of these experts."""
    return sum(any(expert in experts for expert in token) for layer in chosen for token in layer)


@pytest.mark.parametrize("chunks", [1, 3])
def test_only_slots_of_routed_experts_travel(ranks, chunks):
    """Each to its process and back, and the same for gradients; nothing of zero-computation experts."""
    found = ranks.on_mesh(FOUR, exchange.traffic, {"chunks": chunks}, stay=True)
    assert any(expert >= 8 for *_, chosen in found for layer in chosen for token in layer for expert in token)
    for rank, (forward, both, _, chosen) in enumerate(found):
        for other in set(range(4)) - {rank}:
            there = routed_slots(chosen, range(2 * other, 2 * other + 2))
            back = routed_slots(found[other][3], range(2 * rank, 2 * rank + 2))
            assert forward["rows", other] == there + back
            assert both["rows", other] == 2 * (there + back)


@pytest.mark.parametrize("settings", [NODES, BOTH])
def test_a_token_crosses_once_to_each_node(ranks, settings):
    """Ranks 0 and 1 are a node, 2 and 3 another; a token's one copy goes to the rank with its own one's place there."""
    flat, found = (ranks.on_mesh(FOUR, exchange.traffic, of, stay=True) for of in (FLAT, settings))
    assert [chosen for *_, chosen in flat] == [chosen for *_, chosen in found]
    crossed = {"flat": 0, "two levels": 0}
    for rank, (forward, both, sent, chosen) in enumerate(found):
        partner = (rank + 2) % 4
        there = tokens_with(chosen, range(4, 8) if rank < 2 else range(4))
        back = tokens_with(found[partner][3], range(4) if rank < 2 else range(4, 8))
        assert forward["rows", partner] == there + back
        assert both["rows", partner] == 2 * (there + back)
        assert sent["rows", partner] == 2 * (there + back) * 64 * 4
        # numbers and weights of 4 experts go along, gradients of weights come back
        assert sent["numbers", partner] == 4 * 4 * (2 * there + back)
        far = {2, 3} if rank < 2 else {0, 1}
        assert not any(kind != "counts" and other in far - {partner} for kind, other in sent)
        for name, table in (("flat", flat[rank][2]), ("two levels", sent)):
            crossed[name] += sum(size for (kind, other), size in table.items() if kind != "counts" and other in far)
    slots = sum(routed_slots(chosen, range(8)) for *_, chosen in found) / (2 * 4 * 32)
    formula = Exchange(slots, top_k=4, nodes=2, hidden=64, element_bytes=4)
    for name, two_level in (("flat", False), ("two levels", True)):
        assert crossed[name] == pytest.approx(2 * 4 * 32 * formula.link_bytes(two_level), rel=0.1)
