"""Bytes of each axis by hand; tests/benchmark/test_collectives.py compares them with what real processes send.

Those of a pipeline's stages are compared with a dry run, which tests/training/test_dry_run.py compares with real processes.
"""

from collections import Counter
from dataclasses import replace

import pytest

from longcat.benchmark.traffic import table
from longcat.config import load_config
from longcat.costs.flops import expected_ffn_experts, parameters
from longcat.costs.stages import Held
from longcat.costs.traffic import Step, bus_factor, divided_parameters, place_traffic, step_traffic
from longcat.parallel.asked import wish_of
from longcat.training.dry_run import first_step, report_of
from tests.training.measured import MODEL as BALANCED

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
    twice = step_traffic(MODEL, {"dense_shard": 4}, replace(STEP, memory_bytes=1000))
    outside = 2 * (2 * MODEL.hidden_size * MODEL.vocabulary + MODEL.hidden_size)  # words, head and the last norm
    assert twice["dense_shard"] - found["dense_shard"] == pytest.approx(0.75 * 4 * (gathered - outside))


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


def test_parts_of_a_pipeline_are_gathered_once_or_behind_each_forward_pass():
    model = load_config("smoke", None, ["model.num_layers=3"]).model
    layers, degrees = replace(STEP, memory_bytes=1000), {"pipeline": 2, "dense_shard": 4}
    first = Held(2, True, False)
    counts = parameters(model, first)
    numbers = sum(counts.values()) - counts["routed_experts"]
    gathered = 2 * (numbers - counts["router"]) + 4 * counts["router"]
    assert counts["lm_head"] == 0
    kept = place_traffic(model, degrees, STEP, 0)["dense_shard"]
    assert kept == pytest.approx(0.75 * (gathered + 4 * numbers))
    again = place_traffic(model, degrees, layers, 0)["dense_shard"]
    assert again - kept == pytest.approx(0.75 * 4 * (gathered - 2 * counts["embedding"]))


def test_a_pipeline_counts_the_process_that_sends_most():
    degrees = {"pipeline": 3, "dense_shard": 2}
    model = load_config("smoke", None, ["model.num_layers=7"]).model
    places = [place_traffic(model, degrees, STEP, place) for place in range(3)]
    states = 1000 * 2 * model.hidden_size + 4 * 4
    assert [of["hidden states"] for of in places] == [states, 2 * states, states]
    found = step_traffic(model, degrees, STEP)
    assert found["hidden states"] == 2 * states
    assert found["dense_shard"] == max(of["dense_shard"] for of in places) > places[1]["dense_shard"]
    assert "word embedding" not in found


NGRAM = "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}"
MTP = "model.mtp_num_layers=1"
SPARSE = "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_init_tokens: 1, index_local_tokens: 3}"
FULL = "training.activation_checkpointing=full"
STAGED = {  # one stage each; the memory of a device, and the phase of sparse attention
    "experts": (("parallel.expert=2", MTP, NGRAM, "parallel.embedding=true"), 0, 10**9, None),
    "tokens of rows": (("parallel.context=2", "parallel.expert=1", MTP, NGRAM), 1, 10**6, None),
    "some stages free nothing": (("parallel.shard=2", "parallel.expert=1", NGRAM), 1, 4 * 10**6, None),
    "heads": (("parallel.tensor=2", "parallel.expert=1", MTP, FULL), 1, 10**9, None),
    "heads, dense": (("parallel.tensor=2", "parallel.expert=1", MTP, SPARSE), 1, 10**9, "dense"),
    "heads, sparse": (("parallel.tensor=2", "parallel.expert=1", MTP, SPARSE), 1, 10**9, "sparse"),
    "tokens, dense": (("parallel.context=2", "parallel.expert=1", SPARSE, FULL), 0, 10**9, "dense"),
    "tokens, warmup": (("parallel.context=2", "parallel.expert=1", SPARSE, FULL), 0, 10**9, "warmup"),
    "tokens, sparse": (("parallel.context=2", "parallel.expert=1", SPARSE, FULL), 0, 10**9, "sparse"),
    "experts, warmup": (("parallel.expert=2", MTP, SPARSE, FULL), 1, 10**6, "warmup"),
    "both ends in a process": (("parallel.schedule=zbv", "parallel.replicate=2", MTP, NGRAM), 0, 10**9, None),
}  # fmt: skip
ANYTHING = {"dense_shard", "expert_shard", "context", "tensor", "replicate", "expert_replicate"}
"""Axes that may have one group in these layouts."""


@pytest.mark.parametrize("name", STAGED)
def test_a_stage_sends_what_a_dry_run_counts(name):
    settings, place, memory, phase = STAGED[name]
    rows = ("training.micro_batch_sequences=1", "training.global_batch_sequences=6", "training.precision=fp32")
    layout = ("training.processes=4", "parallel.pipeline=2", "model.num_layers=4")
    phases = ("training.dense_attention_steps=1", "training.indexer_warmup_steps=1") if phase else ()
    config = load_config("smoke", overrides=[*BALANCED, *layout, *rows, *phases, *settings])
    model, training = config.model, config.training
    degrees = wish_of(config, 4).settle()
    tokens = training.global_batch_sequences * config.corpus.sequence_length_tokens // degrees.stage
    spreads = config.parallel.spreads_tables(degrees.stage, False)
    step = Step(
        tokens=tokens,
        micro_batches=training.global_batch_sequences // degrees.batch_world,
        element_bytes=4,
        ffn_experts=expected_ffn_experts(model),
        phase=phase or "sparse",
        recomputed=training.activation_checkpointing == "full",
        spread_tables=spreads,
        table_rows=tokens * model.ngram.branches if spreads else None,
        memory_bytes=memory,
        schedule=config.parallel.schedule,
    )
    expected = Counter()
    for axis, size in place_traffic(model, table(degrees), step, place).items():
        expected["weights and tokens" if axis in ANYTHING else axis] += size
    assert {"weights and tokens", "hidden states"} <= expected.keys()

    sent = Counter()
    for axis, collectives in report_of(
        config, memory, "cpu", place, 0 if phase is None else first_step(phase, config)
    ).bytes_by_axis.items():
        label = "weights and tokens" if axis in ANYTHING else axis.removesuffix(" gradients")
        for collective, amount in collectives.items():
            sent[label] += amount * bus_factor(collective.replace("-", "_"), 2)
    for label, size in expected.items():
        # a schedule says once that it begins; the norm and the losses are not in the formulas
        assert sent.pop(label) == pytest.approx(size, abs=100), label
    assert sum(sent.values()) < 1000, "sums of losses, of the norm and of expert loads"
