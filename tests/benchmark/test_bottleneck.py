"""The axis that limits a step, from a measurement made by hand."""

from dataclasses import replace

import pytest

from longcat.benchmark.bottleneck import AxisLoad, axis_loads, exposed_shares, sentence
from longcat.benchmark.measurement import Measurement
from longcat.config import load_config
from longcat.costs.traffic import Step, step_traffic

CONFIG = load_config("smoke")
LOAD = AxisLoad("expert", 8, "between nodes", 12, 3.2e9, None, 0.4, 8e9, 0.31, None)


def need(axis, name, link_bytes, splits="even"):
    return {
        "axis": axis, "name": name, "splits": splits, "ranks": 2, "scope": "inside a node", "messages": 4,
        "bytes": 2 * link_bytes, "link_bytes": link_bytes, "largest": link_bytes,
    }  # fmt: skip


def measured(axis, name, size, seconds, splits="even"):
    return {
        "axis": axis, "name": name, "splits": splits, "bytes": size, "link_bytes": size / 2, "ranks": 2,
        "seconds": seconds, "scope": "inside a node", "algorithm_bandwidth": 0.0, "bus_bandwidth": 0.0,
    }  # fmt: skip


@pytest.fixture
def timed():
    lines = [{"waiting_shares": {"shard": 0.2}}, {"waiting_shares": {"shard": 0.1, "expert": 0.3}}]
    collectives = {
        "needs": [need("shard", "all_gather", 4000), need("expert", "all_to_all", 1000, "uneven")],
        "measured": [measured("shard", "all_gather", 2000, 0.1), measured("expert", "all_to_all", 500, 0.1, "uneven")],
        "served": {"shard": ["shard", "dense_shard", "expert_shard"], "expert": ["expert"]},
        "degrees": {"pipeline": 1, "dense_shard": 2, "expert": 2, "expert_shard": 1},
    }
    return Measurement(
        window_seconds=[4.0, 4.0, 8.0], window_steps=2, window_peak_flops=[], batch_tokens=512, processes=2,
        parallel={"expert": 2}, sequence_length=64, precision="fp32", ffn_experts_per_token=2.0, peak_memory_bytes=1,
        memory={}, breakdown={"timelines": lines}, operators=None, collectives=collectives, micro_batches=2,
        phase="sparse", device_memory_bytes=10**12, device_kind="cpu", device_name="a CPU",
    )  # fmt: skip


def test_needed_bytes_over_the_bandwidth_measured(timed):
    shard, expert = axis_loads(timed, CONFIG)
    assert (shard.axis, shard.seconds, shard.step_share) == ("shard", pytest.approx(0.4), pytest.approx(0.2))
    assert (expert.axis, expert.seconds, expert.step_share) == ("expert", pytest.approx(0.4), pytest.approx(0.2))
    assert (shard.exposed_share, expert.exposed_share) == (pytest.approx(0.15), pytest.approx(0.15))
    formula = step_traffic(CONFIG.model, {"dense_shard": 2, "expert": 2}, Step(256, 2, 4, 2.0))
    assert (shard.formula_bytes, expert.formula_bytes) == (formula["dense_shard"], formula["expert"])


def test_formulas_of_a_pipeline_are_those_of_its_stages(timed):
    degrees = timed.collectives["degrees"] | {"pipeline": 2}
    needs = [*timed.collectives["needs"], need("hidden states", "send", 3000)]
    kinds = [*timed.collectives["measured"], measured("hidden states", "send", 2000, 0.1)]
    staged = timed.collectives | {"degrees": degrees, "needs": needs, "measured": kinds}
    ngrams = "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}"
    config = load_config("smoke", None, ["model.num_layers=2", ngrams, "parallel.embedding=true"])
    loads = axis_loads(replace(timed, collectives=staged, processes=4), config)
    formula = step_traffic(config.model, degrees, Step(256, 2, 4, 2.0, spread_tables=True))
    found = {one.axis: one.formula_bytes for one in loads}
    assert found == {
        "shard": formula["dense_shard"], "expert": formula["expert"], "hidden states": formula["hidden states"],
    }  # fmt: skip
    assert found["hidden states"] == 256 * 4 * CONFIG.model.hidden_size + 2 * 4


def test_formulas_follow_the_phase_and_the_memory_of_the_device(timed):
    sparse = "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_init_tokens: 1, index_local_tokens: 3}"
    config = load_config("smoke", None, [sparse])

    def formula(**changes):
        return axis_loads(replace(timed, **changes), config)[0].formula_bytes

    warmup, dense, sparse = (formula(phase=phase) for phase in ("warmup", "dense", "sparse"))
    assert warmup < dense < sparse
    tight = formula(phase="dense", device_memory_bytes=1000)
    step = Step(256, 2, 4, 2.0, phase="dense", memory_bytes=1000)
    assert tight == step_traffic(config.model, timed.collectives["degrees"], step)["dense_shard"] > dense


def test_one_process_has_no_axes(timed):
    alone = replace(timed, collectives=None, breakdown=None)
    assert axis_loads(alone, CONFIG) == []
    assert exposed_shares(None) is None
    assert sentence([]) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "The bottleneck is the axis expert: 3.2 GB a step from each of 8 processes take 400 ms at the 8 GB/s measured, 31.0% of a step."),
        ({"exposed_share": 0.04}, "31.0% of a step; 4.0% of a step only waits for them."),
        ({"exposed_share": 0.7}, "70.0% of a step only waits for them, so processes wait for one another rather than for the link."),
        ({"step_share": 0.01, "seconds": 1.5}, "No axis is a bottleneck. Along the longest, expert, 3.2 GB a step from each of 8 processes take 1.5 s"),
    ],
)  # fmt: skip
def test_the_sentence(changes, expected):
    assert expected in sentence([replace(LOAD, **changes)])
