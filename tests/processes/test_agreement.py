"""Which node is unlike the others."""

import pytest

from longcat.processes.agreement import ALIKE, disagreements

SAME = {name: f"a {name}" for name in ALIKE} | {"devices": 8, "cann": None}


def nodes(**odd):
    return {"n1": SAME, "n2": SAME, "n3": SAME | odd}


def test_nodes_that_are_alike():
    assert disagreements(nodes()) == []
    assert disagreements({"n1": SAME}) == []
    assert disagreements(nodes(cores=4, memory_bytes=1)) == []


@pytest.mark.parametrize("name", ALIKE)
def test_the_odd_one_is_named(name):
    usual = "none" if SAME[name] is None else SAME[name]
    assert disagreements(nodes(**{name: "another"})) == [
        f"the nodes differ in {name}: node n3 has another, the others have {usual}"
    ]


def test_of_two_nodes_nobody_is_the_odd_one():
    assert disagreements({"n1": SAME, "n2": SAME | {"torch": None}}) == [
        "the nodes differ in torch: n1 has a torch, n2 has none"
    ]


@pytest.mark.parametrize(("off", "which"), [(75.0, "75 s ahead"), (-600.0, "-600 s behind")])
def test_a_clock_that_is_off(off, which):
    [problem] = disagreements(nodes(clock_ahead_s=off))
    assert "clock of node n3" in problem
    assert which.lstrip("-") in problem
    assert disagreements(nodes(clock_ahead_s=30.0)) == []
