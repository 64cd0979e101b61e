"""Bytes of each axis by hand; tests/benchmark/test_collectives.py compares them with what real processes send."""

from dataclasses import replace

import pytest

from longcat.config import load_config
from longcat.costs.flops import parameters
from longcat.costs.traffic import Step, bus_factor, divided_parameters, step_traffic

MODEL = load_config("smoke").model
EXPERTS = parameters(MODEL)["routed_experts"]
ROUTER = parameters(MODEL)["router"]
DENSE = sum(parameters(MODEL).values()) - EXPERTS
STEP = Step(tokens=1000, micro_batches=4, element_bytes=2, ffn_experts=2.0)


def test_what_leaves_a_rank_for_each_byte():
    assert bus_factor("all_reduce", 4) == 1.5
    assert bus_factor("all_gather", 4) == bus_factor("reduce_scatter", 4) == bus_factor("all_to_all", 4) == 0.75
    assert bus_factor("send", 2) == bus_factor("broadcast", 4) == 1
    assert all(bus_factor(name, 1) == 0 for name in ("all_reduce", "all_gather", "all_to_all", "send"))


def test_weights_are_gathered_in_each_micro_batch_and_gradients_summed_once():
    found = step_traffic(MODEL, {"dense_shard": 4}, STEP)
    gathered = 2 * (DENSE - ROUTER) + 4 * ROUTER  # a router computes in fp32
    assert found == {"dense_shard": pytest.approx(0.75 * (4 * gathered + 4 * DENSE))}
    twice = step_traffic(MODEL, {"dense_shard": 4}, replace(STEP, dense_gathers=2))
    assert twice["dense_shard"] - found["dense_shard"] == pytest.approx(0.75 * 4 * gathered)


def test_between_copies_travels_one_shard():
    found = step_traffic(MODEL, {"dense_shard": 4, "replicate": 2}, STEP)
    assert found["replicate"] == pytest.approx(2 * 0.5 * 4 * DENSE / 4)


def test_experts_of_other_processes_are_not_gathered():
    found = step_traffic(MODEL, {"expert": 2, "expert_shard": 2, "expert_replicate": 2}, STEP)
    assert found["expert_shard"] == pytest.approx(0.5 * (4 * 2 + 4) * EXPERTS / 2)
    assert found["expert_replicate"] == pytest.approx(2 * 0.5 * 4 * EXPERTS / 4)
    row = 2 * MODEL.hidden_size
    counts = 4 * 8 * MODEL.n_routed_experts
    assert found["expert"] == pytest.approx(0.5 * MODEL.num_layers * (4 * 1000 * 2.0 * row + counts))
    again = step_traffic(MODEL, {"expert": 2}, replace(STEP, recomputed=True))["expert"]
    assert again == pytest.approx(0.5 * MODEL.num_layers * (6 * 1000 * 2.0 * row + 2 * counts))


def test_spread_tables_send_rows_instead_of_being_gathered():
    model = load_config("smoke", None, ["model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}"]).model
    degrees = {"dense_shard": 2, "embedding": 2}
    gathered = step_traffic(model, degrees, STEP)
    spread = step_traffic(model, degrees, replace(STEP, spread_tables=True, table_rows=100.0))
    tables = parameters(model)["ngram_tables"]
    assert gathered["dense_shard"] - spread["dense_shard"] == pytest.approx(0.5 * (4 * 2 + 4) * tables)
    width = model.hidden_size // model.ngram.branches
    # a number, the row in bf16 and its gradient in fp32, and who asks whom in each micro-batch
    assert spread["embedding"] == pytest.approx(0.5 * (100 * (8 + 2 * width + 4 * width) + 4 * 2 * 8))
    assert "embedding" not in gathered
    assert "embedding" not in step_traffic(model, degrees, replace(STEP, spread_tables=True))


def test_compressed_keys_are_gathered_for_whole_rows_and_their_gradients_come_back():
    found = step_traffic(MODEL, {"context": 4}, STEP)
    keys = 2 * MODEL.num_layers * (MODEL.kv_lora_rank + MODEL.qk_rope_head_dim)
    experts = MODEL.n_routed_experts + MODEL.zero_expert_num
    statistics = 1.5 * 4 * MODEL.num_layers * 2 * experts * 4
    assert found == {"context": pytest.approx(2 * 3 * 1000 * keys * 2 + statistics)}
    again = step_traffic(MODEL, {"context": 4}, replace(STEP, recomputed=True))
    assert again["context"] - found["context"] == pytest.approx(3 * 1000 * keys * 2)
    assert step_traffic(MODEL, {"context": 2, "tensor": 2}, STEP).keys() == {"context x tensor", "tensor"}


def test_tokens_are_gathered_before_heads_and_networks_and_scattered_after_them():
    found = step_traffic(MODEL, {"tensor": 2}, replace(STEP, micro_batches=1))
    hidden, sublayers = MODEL.hidden_size, 2 * MODEL.num_layers
    numbers = sublayers * (MODEL.q_lora_rank + 3 * hidden) + 2 * hidden  # and words and the head
    tokens = 2 * 1000 * (2 * numbers * 2 + 2 * 2 * 4) * 0.5
    gradients = 2 * 0.5 * 4 * (DENSE - divided_parameters(MODEL))
    keys = step_traffic(MODEL, {"context": 2}, replace(STEP, micro_batches=1))["context"]
    assert found == {"tensor": pytest.approx(tokens + gradients + keys)}
