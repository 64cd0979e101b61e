"""Bytes of training, against what a trainer really holds."""

import pytest
import torch

from longcat.config import ParallelConfig, load_config
from longcat.costs.memory import Spread, stage_memories, training_memory
from longcat.model.transformer import LongcatModel
from longcat.parallel.asked import spread_of
from longcat.parallel.axes import Degrees
from longcat.parallel.embedding import SpreadTables
from longcat.training.dry_run import dry_run
from longcat.training.optimizer import build_optimizers
from tests.training.measured import MODEL, measure


def estimate(config, spread=Spread(), precision="fp32", parallel=None, memory_bytes=float("inf")):  # noqa: B008
    length = config.corpus.sequence_length_tokens
    return training_memory(
        config.model, config.training, spread, precision, parallel or config.parallel, length, memory_bytes
    )


def spread(processes):
    """Everything over all processes, each of which has experts of its own."""
    return Spread(processes, dense=processes, holders=64, expert=processes, tables=processes, batch=processes)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("preset", ["smoke", "tiny-2.0"])
def test_states_of_one_process_are_those_of_real_optimizers(name, preset):
    config = load_config(preset, overrides=[f"training.optimizer.name={name}"])
    model = LongcatModel(config.model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers = build_optimizers(model, config.training.optimizer, torch.float32)
    for optimizer in optimizers:
        optimizer.step()
    states = [value for one in optimizers for state in one.state.values() for value in state.values()]
    held = sum(value.numel() * value.element_size() for value in states if value.numel() > 1)
    memory = estimate(config)
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    assert memory.weights == memory.gradients == weights
    assert memory.optimizer == pytest.approx(held, rel=0.02)
    assert memory.gathered == 0


def test_what_is_spread_gets_smaller_and_what_is_gathered_does_not():
    config = load_config("longcat-2.0")
    few, many = (estimate(config, spread(count), "bf16", ParallelConfig()) for count in (64, 4096))
    assert many.weights == pytest.approx(few.weights / 64)
    assert many.gathered > 270e9  # the n-gram tables alone, 135 G numbers in bf16
    assert few.states > many.states


def test_rows_of_a_stage_with_one_process_are_not_spread():
    config = load_config("longcat-2.0", overrides=["training.optimizer.lazy_ngram_moments=false"])
    spread_wished, whole = (
        estimate(config, spread_of(Degrees(16, pipeline=16)), "bf16", ParallelConfig(pipeline=16, embedding=embedding))
        for embedding in (True, False)
    )
    assert spread_wished == whole
    two = estimate(config, spread_of(Degrees(32, pipeline=16)), "bf16", ParallelConfig(pipeline=16, embedding=True))
    assert whole.gathered - two.gathered > 269e9


def test_spread_rows_are_neither_gathered_nor_copied():
    config = load_config("longcat-2.0")
    alone, gathered = (estimate(config, spread(4096), "bf16", one) for one in (config.parallel, ParallelConfig()))
    assert gathered.gathered - alone.gathered == pytest.approx(270e9, rel=0.01)
    assert gathered.weights == pytest.approx(alone.weights)
    assert gathered.gradients - alone.gradients == pytest.approx(135e9 * 4 / 4096, rel=0.01)


def test_states_of_rows_that_are_moved_late_are_those_of_the_real_optimizer():
    overrides = ["parallel.embedding=true", "training.optimizer.lazy_ngram_moments=true"]
    config = load_config("tiny-2.0", overrides=overrides)
    model = LongcatModel(config.model)
    tables = SpreadTables(model.model.ngram_embeddings.tables, torch.float32, dense=False)
    optimizers = build_optimizers(model, config.training.optimizer, torch.float32, tables)
    states = [value for one in optimizers for state in one.state.values() for value in state.values()]
    held = sum(value.numel() * value.element_size() for value in states if value.numel() > 1)
    memory = estimate(config)
    assert memory.optimizer == pytest.approx(held, rel=0.001)
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    assert memory.weights == weights
    assert memory.gradients == weights - tables.weight.numel() * 4


LARGE = (
    "model.hidden_size=256", "model.ffn_hidden_size=768", "model.num_layers=3", "corpus.sequence_length_tokens=256",
    "training.global_batch_sequences=8", "training.optimizer.name=adamw",
)  # fmt: skip
"""Large enough for activations to matter as they do, and small enough for a test."""
NGRAMS = ("model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}", "parallel.embedding=true")
LAYOUTS = {
    "one process": (Degrees(1), ()),
    "shard 2": (Degrees(2), ("parallel.expert=1",)),
    "replicate 2": (Degrees(2, replicate=2), ("parallel.replicate=2", "parallel.expert=1")),
    "expert 2": (Degrees(2, expert=2), ("parallel.expert=2",)),
    "shard 2 x expert 2": (Degrees(4, expert=2), ("parallel.expert=2",)),
    "embedding": (Degrees(2, expert=2), ("parallel.expert=2", *NGRAMS)),
    "micro-batches": (Degrees(2, expert=2), ("parallel.expert=2", "training.micro_batch_sequences=2")),
    "selective": (Degrees(1), ("training.activation_checkpointing=selective",)),
    "full": (Degrees(1), ("training.activation_checkpointing=full",)),
}


SPLIT = {
    "pipeline": (2, ("parallel.pipeline=2", "parallel.expert=1", "training.micro_batch_sequences=2")),
    "context": (2, ("parallel.context=2", "parallel.expert=1")),
    "tensor": (2, ("parallel.tensor=2", "parallel.expert=1")),
    "pipeline x expert": (4, ("parallel.pipeline=2", "parallel.expert=2", "training.micro_batch_sequences=1")),
    "context x tensor": (4, ("parallel.context=2", "parallel.tensor=2", "parallel.expert=1")),
    "tables in one process of a pipeline": (
        2,
        (
            "parallel.pipeline=2",
            "parallel.expert=1",
            "training.micro_batch_sequences=2",
            "model.ngram={vocab_size_ratio: 20.5, neighbor_num: 3, split_num: 2}",
        ),
    ),
    "multi-token prediction in a pipeline": (
        2,
        ("parallel.pipeline=2", "parallel.expert=1", "training.micro_batch_sequences=2", "model.mtp_num_layers=2"),
    ),
}


@pytest.mark.parametrize("name", SPLIT)
def test_the_peak_is_within_a_tenth_of_that_of_a_dry_run(name):
    processes, settings = SPLIT[name]
    own = ("training.precision=fp32", "model.num_layers=4", f"training.processes={processes}")
    config = load_config("tiny", overrides=[*MODEL, *LARGE, *own, *settings])
    found = dry_run(config, 64 * 10**9, "cpu")
    assert found.estimate.peak == pytest.approx(found.worst.peak_bytes, rel=0.1)


def test_each_stage_of_a_pipeline_holds_its_own():
    """Figures of the dry run of the preset, which takes minutes: stages 0, 1 and 11 (docs/parallel.md)."""
    config = load_config("longcat-2.0", overrides=["training.processes=49152"])
    degrees = Degrees(49152, pipeline=12, replicate=16, context=8, tensor=2, expert=256)
    found = stage_memories(
        config.model, config.training, spread_of(degrees), "bf16", config.parallel, 8192, 64e9, "npu"
    )
    assert [one.peak / 1e9 for one in found] == pytest.approx([44.8, 38.0, 33.5], rel=0.05)
    assert found[0].weights > found[1].weights > found[2].weights
    whole = training_memory(
        config.model, config.training, spread_of(degrees), "bf16", config.parallel, 8192, 64e9, "npu"
    )
    assert whole == found[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_peak_is_within_a_tenth_of_what_is_measured(ranks, name):
    degrees, settings = LAYOUTS[name]
    settings = (*MODEL, *LARGE, *settings)
    measured, *_ = ranks.on_mesh(degrees, measure, settings, 64 * 10**9, "tiny")[0]
    found = estimate(load_config("tiny", overrides=[*settings]), spread_of(degrees), memory_bytes=64e9)
    assert found.peak == pytest.approx(measured, rel=0.1)
