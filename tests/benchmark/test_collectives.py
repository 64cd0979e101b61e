"""What the axes of a layout send in a step, against torch's own count and the formulas, and how fast that is."""

from collections import Counter
from dataclasses import replace

import pytest

from longcat.benchmark.collectives import (
    BETWEEN,
    INSIDE,
    Collective,
    Need,
    axis_times,
    most,
    needs,
    scope_of,
    typical_exchange,
)
from longcat.benchmark.traffic import Message, table
from longcat.costs.traffic import Step, bus_factor, place_traffic, step_traffic
from longcat.parallel.axes import Degrees
from tests.benchmark.step import OPERATORS, talk_along, watch_a_step
from tests.parallel.training import EVERYTHING, TOKENS, Case


def test_bus_bandwidth_by_hand():
    """1 GB in 0.1 s over 8 ranks: 10 GB/s, of which the link carries 7/4 or 7/8 (nccl-tests, doc/PERFORMANCE.md)."""
    for name, expected in (
        ("all_reduce", 17.5), ("all_gather", 8.75), ("reduce_scatter", 8.75), ("all_to_all", 8.75), ("send", 10.0),
    ):  # fmt: skip
        found = Collective("an axis", name, "even", 10**9, 1e9 * bus_factor(name, 8), 8, 0.1, INSIDE)
        assert found.algorithm_bandwidth == pytest.approx(10e9)
        assert found.bus_bandwidth == pytest.approx(expected * 1e9)


@pytest.mark.parametrize(
    ("ranks", "local", "expected"),
    [([0, 1], 2, INSIDE), ([0, 8], 8, BETWEEN), ([8, 15], 8, INSIDE), ([7, 8], 8, BETWEEN), ([0, 1], 1, BETWEEN)],
)
def test_where_an_axis_runs(ranks, local, expected):
    assert scope_of(ranks, local) == expected


def test_messages_are_added_up_by_axis_and_collective():
    exchange = Message("expert", "all_to_all", 2, 30, 10.0, (20, 10), (5, 5))
    even = Message("expert", "all_to_all", 2, 8, 4.0)
    found = needs(
        [exchange, replace(exchange, bytes=90, link_bytes=50.0), even, replace(even, ranks=1)], {"expert": BETWEEN}
    )
    assert found == [
        Need("expert", "all_to_all", "uneven", 2, BETWEEN, 2, 120, 60.0, 90),
        Need("expert", "all_to_all", "even", 2, BETWEEN, 1, 8, 4.0, 8),
    ]
    busier = [replace(found[0], link_bytes=61.0)]
    assert most([found, busier]) == [found[1], busier[0]]


def test_the_exchange_nearest_to_the_mean_stands_for_all():
    own = [Message("expert", "all_to_all", 2, size, 0.0, (size, 0), (0, size)) for size in (1, 50, 300)]
    # over both processes: 301, 110, 360, on average 257
    assert typical_exchange(own, [[1, 50, 300], [300, 60, 60]]) == ((1, 0), (0, 1))
    assert typical_exchange([], [[], []]) is None


def test_an_axis_takes_its_bytes_over_the_bandwidth_at_their_size():
    needed = [
        Need("shard", "all_gather", "even", 2, INSIDE, 4, 4000, 2000.0, 2500),
        Need("shard", "reduce_scatter", "even", 2, INSIDE, 1, 4000, 2000.0, 4000),
        Need("expert", "all_to_all", "uneven", 2, INSIDE, 1, 100, 60.0, 100),
        Need("nothing measured", "send", "even", 2, INSIDE, 1, 100, 60.0, 100),
    ]
    measured = [
        Collective("shard", "all_gather", "even", 1000, 500.0, 2, 0.5, INSIDE),  # 1 kB/s at the size of a mean message
        Collective("shard", "all_gather", "even", 2500, 1250.0, 2, 0.5, INSIDE),
        Collective("shard", "reduce_scatter", "even", 4000, 2000.0, 2, 1.0, INSIDE),
        Collective("expert", "all_to_all", "even", 100, 50.0, 2, 1e-3, INSIDE),
        Collective("expert", "all_to_all", "uneven", 90, 45.0, 2, 9.0, INSIDE),
    ]
    found = axis_times(needed, measured)
    assert [(one.axis, one.seconds, one.messages) for one in found] == [("expert", 12.0, 1), ("shard", 3.0, 5)]
    assert found[1].bus_bandwidth == pytest.approx(4000 / 3)


LAYOUTS = {
    "copies of shards, and experts": Degrees(4, replicate=2, expert=2),
    "experts over all": Degrees(4, expert=4),
    "experts sharded": Degrees(4, replicate=2, expert=1),
    "tokens of rows": Degrees(4, context=2, expert=2),
    "tokens of all rows": Degrees(2, context=2),
    "heads": Degrees(2, tensor=2),
    "heads and tokens": Degrees(4, context=2, tensor=2),
}


CLOSE = {"expert": 0.1, "embedding": 0.02, "tensor": 0.02}
"""How near formulas come to the bytes; the words behind a row are looked up once more for multi-token prediction."""


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_is_seen_whole_and_follows_the_formulas(ranks, layout, recomputed):
    degrees = LAYOUTS[layout]
    settings = ("training.activation_checkpointing=full",) if recomputed else ()
    case = Case(rows=8, overrides=(*EVERYTHING, "parallel.embedding=true", *settings))
    found = ranks.on_mesh(degrees, watch_a_step, case)
    seen = [Counter() for _ in found]
    for own, one in zip(seen, found, strict=True):
        for message in one["messages"]:
            own[OPERATORS[message.name]] += message.bytes
        assert own == Counter(one["counted"]), "torch was asked for nothing else"

    messages = [message for one in found for message in one["messages"]]
    exchanged = [one for one in messages if one.axis == "expert" and one.to]
    model, rows = case.config.model, case.rows // degrees.batch_world
    row = model.hidden_size * 4
    slots = sum(one.bytes for one in exchanged) / row / (6 if recomputed else 4) / model.num_layers
    width = 8 + (model.hidden_size // model.ngram.branches) * 8
    looked_up = sum(sum(one.of) for one in messages if one.axis == "embedding" and one.to)
    step = Step(
        tokens=case.rows * TOKENS // degrees.processes,
        micro_batches=rows,
        element_bytes=4,
        ffn_experts=slots / (case.rows * TOKENS),
        recomputed=recomputed,
        spread_tables=True,
        table_rows=looked_up / width / degrees.processes,
    )
    formula = step_traffic(model, table(degrees), step)
    sent = Counter()
    for message in messages:
        sent[message.axis] += message.link_bytes / degrees.processes
    for label, axes in found[0]["served"].items():
        expected = sum(formula.pop(axis, 0.0) for axis in axes)
        # experts and rows are not chosen evenly; losses and norms are not in the formulas
        assert sent[label] == pytest.approx(expected, rel=CLOSE.get(label, 3e-3), abs=200), label
    assert not formula, "no axis is left"


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zbv"])
def test_all_that_stages_send_is_seen(ranks, schedule):
    layout = ("model.num_layers=4", "parallel.pipeline=2", f"parallel.schedule={schedule}", "model.mtp_num_layers=1")
    case = Case(rows=4, overrides=layout)
    step = Step(case.rows * TOKENS, case.rows, 4, 1.0, schedule=schedule)
    for place, one in enumerate(ranks.on_mesh(Degrees(2, pipeline=2), watch_a_step, case)):
        seen = Counter()
        for message in one["messages"]:
            seen[OPERATORS[message.name]] += message.bytes
        assert seen == Counter(one["counted"]), "torch was asked for nothing else"
        formula = place_traffic(case.config.model, {"pipeline": 2}, step, place)
        assert formula.keys() == {"hidden states", *(("word embedding",) if schedule != "zbv" else ())}
        for axis, expected in formula.items():  # a schedule says once that it begins
            sent = sum(message.link_bytes for message in one["messages"] if message.axis == axis)
            assert sent == pytest.approx(expected, abs=20), axis


def test_an_axis_without_others_sends_nothing():
    case = Case(rows=1)
    assert step_traffic(case.config.model, {}, Step(32, 1, 4, 1.0)) == {}


def test_every_axis_of_a_layout_is_measured(ranks):
    case = Case(rows=4, overrides=(*EVERYTHING, "parallel.embedding=true"))
    found = [one["measured"] for one in ranks.on_mesh(Degrees(4, replicate=2, expert=2), watch_a_step, case, (3, 4096))]
    assert all(one == found[0] for one in found), "the same in every process"
    measured, needed = found[0]["measured"], found[0]["needs"]
    assert {"replicate", "shard", "expert", "embedding"} <= {one["axis"] for one in measured}
    assert found[0]["served"]["replicate"] == ["replicate", "expert_replicate"]
    for need in needed:
        of = [one for one in measured if all(one[key] == need[key] for key in ("axis", "name", "splits"))]
        sizes = [one["bytes"] for one in of]
        assert all(one["seconds"] > 0 and one["ranks"] == need["ranks"] for one in of)
        if need["splits"] == "uneven":
            assert len(of) == 1
        else:  # 3 bytes hold no number for each rank, so that one each is the least
            assert {4 * need["ranks"], 4096} <= set(sizes)
            assert max(sizes) >= need["largest"] - 4 * need["ranks"]


def test_the_two_levels_of_an_exchange_are_apart(ranks):
    levels = ("parallel.two_level=true", "parallel.devices_per_node=2", "parallel.chunks=2")
    found = ranks.on_mesh(Degrees(4, expert=4), watch_a_step, Case(rows=4, overrides=levels), (64,))
    measured = found[0]["measured"]["measured"]
    ranks_of = {one["axis"]: one["ranks"] for one in measured if one["splits"] == "uneven"}
    assert ranks_of == {"experts across nodes": 2, "experts within a node": 2}
    across = [one for one in found[0]["messages"] if one.axis == "experts across nodes" and one.to]
    assert len(across) == 2 * 7, "in each chunk numbers, weights and rows there, rows back, and three gradients"


def test_stages_and_groups_that_not_every_rank_has(ranks):
    found = ranks.on_mesh(Degrees(4, pipeline=2, tensor=2), talk_along)
    for rank, (messages, came, whole, _) in enumerate(found):
        seen = [(one.axis, one.name, one.bytes, one.link_bytes) for one in messages]
        expected = [("tensor", "all_gather", 48, 24)]
        if rank < 2:
            expected = [
                ("pipeline", "send", 24, 24),
                *expected,
                ("rows of the first stage", "all_to_all", 24, (8, 4)[rank]),
            ]
        assert seen == expected
        assert came == ([0.0] * 6 if rank < 2 else [6.0 * (rank - 2) + number for number in range(6)])
        assert whole == [12.0 * (rank // 2) + number for number in range(12)]
    measured = [one[3] for one in found]
    assert all(one == measured[0] for one in measured)
    kinds = {(one["axis"], one["name"], one["splits"]): one for one in measured[0]["measured"]}
    assert kinds.keys() == {
        ("pipeline", "send", "even"), ("tensor", "all_gather", "even"), ("rows of the first stage", "all_to_all", "uneven"),
    }  # fmt: skip
    uneven = kinds["rows of the first stage", "all_to_all", "uneven"]
    assert (uneven["bytes"], uneven["link_bytes"], uneven["ranks"]) == (24, 6.0, 2)
    assert kinds["pipeline", "send", "even"]["link_bytes"] == kinds["pipeline", "send", "even"]["bytes"]
