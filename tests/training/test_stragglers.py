"""Who is slower than the others, by the medians of step times."""

from types import SimpleNamespace

import pytest

from longcat.parallel.axes import Degrees
from longcat.training.life import sentence
from longcat.training.stragglers import RECORDS, Straggler, Stragglers


def stragglers(processes, **degrees):
    return Stragglers(SimpleNamespace(degrees=Degrees(processes, **degrees), processes=processes))


def test_one_that_is_slow_for_long_enough_is_named_once():
    of = stragglers(4)
    found = [of.judge([1.0, 1.1, 2.0, 0.9])[1] for _ in range(RECORDS + 3)]
    assert found == [[]] * (RECORDS - 1) + [[Straggler(2, 2.0, 1.0)]] + [[]] * 3
    figures, _ = of.judge([1.0, 1.1, 2.0, 0.9])
    assert figures["perf/slowest_rank"] == 2
    assert figures["perf/slowest_rank_seconds"] == 2.0
    assert figures["perf/own_step_seconds"] == pytest.approx(1.05)
    said = sentence({"kind": "straggler", **Straggler(2, 2.0, 1.0)._asdict()})
    assert said == ("rank 2 is a straggler: its steps take 2 s without what it waits for, those of others 1 s")


def test_one_record_is_not_enough_and_two_processes_can_be_compared():
    of = stragglers(2)
    for _ in range(RECORDS):
        assert of.judge([1.0, 3.0])[1] == []
        assert of.judge([1.0, 1.2])[1] == []
    found = [of.judge([3.0, 1.0])[1] for _ in range(RECORDS)]
    assert found[-1] == [Straggler(0, 3.0, 1.0)]


def test_stages_of_a_pipeline_have_other_work():
    of = stragglers(4, pipeline=2)
    assert all(of.judge([1.0, 1.0, 3.0, 3.0])[1] == [] for _ in range(2 * RECORDS))


def slow_one(mesh):
    of = Stragglers(mesh)
    for _ in range(RECORDS):
        for step in range(3):
            of.note((5.0 if mesh.rank else 1.0) + step)
        figures, found = of.compare()
    return figures, found


def test_every_process_finds_the_same(ranks):
    first, second = ranks.on_mesh(Degrees(2), slow_one)
    assert first == second
    assert first[1] == [Straggler(1, 6.0, 2.0)]
