"""A flipped bit is found, and who has it is named: in a weight, a moment, a gradient, and a collective's buffer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longcat.parallel.axes import Degrees
from longcat.training.corruption import Finding, wrong_ones
from longcat.training.fingerprint import fingerprint
from longcat.training.life import record_event, sentence, suspects
from tests.training import flips


@given(
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
    st.integers(1, 70),
    st.integers(0, 10**6),
)
def test_every_flipped_bit_has_another_fingerprint(dtype, size, at):
    tensor = (torch.arange(size * 2).view(size, 2) % 3).to(dtype)
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    before = fingerprint(tensor)
    assert fingerprint(tensor.clone()) == before
    changed = tensor.clone()
    bits = changed.view(-1).view(torch.uint8)
    bits[at % len(bits)] ^= 1 << at // len(bits) % 8
    assert fingerprint(changed.view(whole)) != before


def test_swapped_numbers_have_another_fingerprint_and_pieces_do_not_show(monkeypatch):
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    before = fingerprint(tensor)
    swapped = tensor.clone()
    swapped[[3, 700]] = swapped[[700, 3]]
    assert fingerprint(swapped) != before
    monkeypatch.setattr("longcat.training.fingerprint._PIECE", 37)
    assert fingerprint(tensor) == before
    assert fingerprint(tensor.view(10, 100).mT.contiguous().mT) == before
    assert fingerprint(tensor[:0]) == 0


def test_the_few_are_wrong_and_of_two_either():
    assert wrong_ones([4, 6, 8], [1, 2, 1]) == (6,)
    assert wrong_ones([4, 6], [1, 2]) == (4, 6)
    assert wrong_ones([0, 1, 2, 3], [1, 1, 2, 2]) == (0, 1, 2, 3)
    assert wrong_ones([0, 1, 2, 3, 4], [1, 2, 3, 1, 1]) == (1, 2)


CLEAN = [
    (Degrees(1), []),
    (Degrees(2, expert=2), flips.EVERYTHING),
    (Degrees(2, replicate=2), []),
    (Degrees(4, expert=2), ["training.optimizer.name=muon"]),
    (Degrees(2, tensor=2), []),
    (Degrees(2, context=2), ["training.activation_checkpointing=full"]),
    (Degrees(2, pipeline=2), ["training.micro_batch_sequences=1"]),
    (Degrees(4, replicate=2, expert=4), ["parallel.embedding=true", *flips.EVERYTHING]),
]


@pytest.mark.parametrize(("degrees", "settings"), CLEAN)
def test_nothing_is_found_where_nothing_is_wrong(ranks, degrees, settings):
    for _, found, after in ranks.on_mesh(degrees, flips.search, None, 0, 1, settings):
        assert (found, after) == ([], [])


def one(results):
    """What every rank found, which has to be the same."""
    found, after = results[0][1:]
    assert all(other[1:] == (found, after) for other in results)
    assert all(of.nodes and all(of.nodes) for of in found)
    return found, after


@pytest.mark.parametrize("where", [flips.in_gradient, flips.in_buffer])
@pytest.mark.parametrize("degrees", [Degrees(2), Degrees(2, expert=2)])
def test_bits_that_flip_once_are_found_by_doing_it_again(ranks, where, degrees):
    found, after = one(ranks.on_mesh(degrees, flips.search, where, 1))
    assert [of.ranks for of in found if of.how == "again"] == [(1,)]
    assert "layer" in found[0].tensor
    assert after == []


def test_a_flip_on_the_way_to_an_expert_is_found(ranks):
    found, after = one(ranks.on_mesh(Degrees(2, expert=2), flips.search, flips.in_exchange, 0))
    assert {of.how for of in found} == {"again"}
    assert after == []


def test_one_that_always_computes_wrong_is_named_by_its_neighbours(ranks):
    results = ranks.on_mesh(Degrees(3), flips.search, flips.in_gradient, 1, 10**9)
    assert [neighbour for neighbour, *_ in results] == [1, 2, 0]
    found, after = one(results)
    assert [(of.how, of.ranks) for of in found] == [("neighbour", (1,))]
    assert "gradient behind layer 0" in found[0].tensor
    assert after == []
    pair, _ = one(ranks.on_mesh(Degrees(2), flips.search, flips.in_gradient, 1, 10**9))
    assert {(of.how, of.ranks) for of in pair} == {("neighbour", (0, 1))}


@pytest.mark.parametrize(
    ("where", "name"), [(flips.in_weight, "router.classifier.weight"), (flips.in_moment, "model.norm.weight, exp_avg")]
)
def test_what_is_held_wrongly_is_found_by_its_copies(ranks, where, name):
    found, after = one(ranks.on_mesh(Degrees(3, replicate=3), flips.search, where, 2))
    held = [of for of in found if of.how == "copies"]
    assert [(of.ranks, name in of.tensor) for of in held] == [((2,), True)]
    assert [of for of in after if of.how == "copies"] == held


def test_where_bits_do_not_repeat_only_copies_are_compared(ranks):
    degrees = Degrees(3, replicate=3)
    unrepeated = ranks.on_mesh(degrees, flips.search, flips.unrepeated, 1, 1, (), False)
    assert [neighbour for neighbour, *_ in unrepeated] == [None] * 3
    assert one(unrepeated) == ([], [])
    found, after = one(ranks.on_mesh(degrees, flips.search, flips.in_weight, 2, 1, (), False))
    assert found == after
    assert {(of.how, of.ranks) for of in found} == {("copies", (2,))}


def test_suspects_are_those_that_are_known_to_be_wrong(tmp_path):
    for of in (
        Finding("again", (3,), "the output of layer 1", ("b",)),
        Finding("neighbour", (0, 3), "the output of layer 1", ("a", "b")),
        Finding("copies", (3,), "model.norm.weight", ("b",)),
    ):
        record_event(tmp_path, "corruption", step=5, ranks=of.ranks, nodes=of.nodes, message=str(of))
    assert suspects(tmp_path) == {"b": [3, 3]}
    said = sentence({"kind": "corruption", "step": 5, "message": str(Finding("again", (3,), "x", ("b",)))})
    assert said == (
        "silent corruption before step 5: rank 3 on b computes x to other bits a second time; the work is done again"
    )


def test_a_suspected_node_is_left_out_where_it_can_be():
    from types import SimpleNamespace

    from longcat.training.launchers import spared

    members = [SimpleNamespace(name=name) for name in "abc"]
    assert [of.name for of in spared(members, {"b"}, 2)] == ["a", "c"]
    assert spared(members, {"b"}, 3) == members
    assert spared(members, set(), 1) == members
