"""A dry run foresees what a step of real processes does."""

import json

import pytest

from longcat.commands.pretrain import pretrain_command
from longcat.config import load_config
from longcat.errors import ConfigError
from longcat.parallel.axes import Degrees
from longcat.training.dry_run import dry_run, first_step, report_of
from tests.training.measured import MODEL, measure

MEMORY = 10**9
LAYOUTS = {
    "one process": (Degrees(1), ()),
    "shard": (Degrees(4), ("parallel.expert=1",)),
    "replicate x expert": (Degrees(4, expert=2, replicate=2), ("parallel.replicate=2", "parallel.expert=2")),
    "shard x expert": (
        Degrees(4, expert=2),
        ("parallel.expert=2", "training.micro_batch_sequences=1", "training.activation_checkpointing=selective"),
    ),
    "context": (Degrees(2, context=2), ("parallel.context=2", "parallel.expert=1")),
    "tensor": (Degrees(2, tensor=2), ("parallel.tensor=2", "parallel.expert=1")),
    "pipeline": (
        Degrees(2, pipeline=2),
        ("parallel.pipeline=2", "parallel.expert=1", "model.num_layers=2", "training.micro_batch_sequences=4"),
    ),
    "interleaved": (
        Degrees(2, pipeline=2),
        (
            "parallel.pipeline=2",
            "parallel.schedule=interleaved",
            "model.num_layers=4",
            "training.micro_batch_sequences=2",
        ),
    ),
    "zbv x expert": (
        Degrees(4, pipeline=2, expert=2),
        (
            "parallel.pipeline=2",
            "parallel.schedule=zbv",
            "parallel.expert=2",
            "model.num_layers=4",
            "training.micro_batch_sequences=1",
        ),
    ),
    "chunks and all recomputed": (
        Degrees(2, expert=2),
        (
            "parallel.expert=2",
            "parallel.chunks=2",
            "training.activation_checkpointing=full",
            "training.optimizer.name=muon",
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_bytes_are_those_of_real_processes_and_the_peak_is_near(ranks, name):
    degrees, settings = LAYOUTS[name]
    settings = ("training.global_batch_sequences=16", *settings)
    peak, sent, flops = ranks.on_mesh(degrees, measure, settings, MEMORY)[0]
    config = load_config(
        "smoke", overrides=[*MODEL, *settings, f"training.processes={degrees.processes}", "training.precision=fp32"]
    )
    report = dry_run(config, MEMORY, "cpu").worst
    assert bool(sent) is (degrees.processes > 1)
    assert report.bytes_by_axis == sent
    assert report.flops == pytest.approx(flops, rel=1e-3)
    assert report.peak_bytes == pytest.approx(peak, rel=0.1)


def test_more_micro_batches_cost_in_proportion():
    def report(rows):
        settings = [
            "training.micro_batch_sequences=1",
            f"training.global_batch_sequences={rows}",
            "training.processes=2",
        ]
        return dry_run(load_config("smoke", overrides=[*MODEL, *settings]), MEMORY, "cpu")

    few, more, many = report(2), report(4), report(12)
    assert (few.micro_batches, more.micro_batches, many.micro_batches) == (1, 2, 6)
    # each has its row of tokens, targets, documents and padding here, and leaves its losses and statistics behind
    each = (many.worst.peak_bytes - more.worst.peak_bytes) / 4
    assert 0 <= each - 64 * (3 * 8 + 1) <= 100
    for axis, collectives in many.worst.bytes_by_axis.items():
        for collective, amount in collectives.items():
            one, two = (of.worst.bytes_by_axis[axis][collective] for of in (few, more))
            assert amount == one + 5 * (two - one), (axis, collective)
    assert many.worst.flops == few.worst.flops + 5 * (more.worst.flops - few.worst.flops)


BESIDE = {
    "alone": (1, ()),
    "expert": (2, ("parallel.expert=2", "training.optimizer.name=muon")),
    "context": (2, ("parallel.context=2", "parallel.expert=1", "training.activation_checkpointing=selective")),
    "tensor": (2, ("parallel.tensor=2", "parallel.expert=1", "model.mtp_num_layers=1")),
}
ROWS = {"1f1b": 7, "interleaved": 10, "zbv": 9}
"""Micro-batches of two stages, of which 4, 6 and 6 are run."""


@pytest.mark.parametrize("schedule", ROWS)
@pytest.mark.parametrize(
    ("beside", "stage"),
    [
        ("alone", 0),
        ("alone", 1),
        *(pytest.param(axis, 0, marks=pytest.mark.slow) for axis in BESIDE if axis != "alone"),
    ],
)
def test_what_repeats_in_a_pipeline_is_scaled_exactly(schedule, beside, stage):
    processes, others = BESIDE[beside]
    rows = ROWS[schedule] * (2 if beside == "expert" else 1)
    settings = [
        f"training.processes={2 * processes}",
        "parallel.pipeline=2",
        f"parallel.schedule={schedule}",
        "model.num_layers=4",
        "training.micro_batch_sequences=1",
        f"training.global_batch_sequences={rows}",
    ]
    config = load_config("smoke", overrides=[*MODEL, *settings, *others])
    scaled, whole = (report_of(config, MEMORY, "cpu", stage, 0, every) for every in (False, True))
    assert scaled.bytes_by_axis == whole.bytes_by_axis
    assert scaled.flops == whole.flops
    # a step counts its tokens and targets once, in 16 bytes
    assert scaled.saved_bytes == pytest.approx(whole.saved_bytes, abs=16)
    assert scaled.peak_bytes == pytest.approx(whole.peak_bytes, abs=16)


def test_the_command_tells_what_a_rank_needs(capsys):
    command = pretrain_command("title")
    settings = ["training.global_batch_sequences=48", "parallel.replicate=8", "parallel.expert=2"]
    command(preset="smoke", set_=settings, as_json=True, dry=True, world_size=16, memory_gb=0.001)
    answer = json.loads(capsys.readouterr().out)
    assert answer["world_size"] == 16
    assert answer["degrees"] == Degrees(16, expert=2, replicate=8).by_axis
    assert answer["fits"] is (answer["peak_bytes"] <= 1_000_000)
    assert not answer["fits"]
    assert answer["per_rank_parameters"] * 4 == pytest.approx(answer["parameter_bytes"], rel=0.01)
    assert answer["bytes_by_axis"]["expert"]["all-to-all"] > 0
    command(preset="smoke", set_=settings, dry=True, world_size=16)
    assert "fits: rank 0 needs" in capsys.readouterr().out


SPARSE = (
    "training.processes=2",
    "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_init_tokens: 1, index_local_tokens: 3}",
    "training.dense_attention_steps=4",
    "training.indexer_warmup_steps=2",
)


def test_each_phase_of_sparse_attention_is_told():
    config = load_config("smoke", overrides=SPARSE)
    assert [first_step(phase, config) for phase in ("dense", "warmup", "sparse")] == [0, 4, 6]
    first, dense, warmup, sparse = (
        dry_run(config, MEMORY, "cpu", phase) for phase in (None, "dense", "warmup", "sparse")
    )
    assert [of.phase for of in (first, dense, warmup, sparse)] == ["dense", "dense", "warmup", "sparse"]
    assert first.ranks == dense.ranks
    # indexers rest in dense steps, and all else rests while they learn; then the chosen keys alone are read
    assert warmup.worst.gradient_bytes < 0.2 * dense.worst.gradient_bytes < 0.2 * sparse.worst.gradient_bytes
    assert warmup.worst.flops < dense.worst.flops
    sequences = dense.worst.bytes_by_axis["dense_shard"]["reduce-scatter"]
    assert warmup.worst.bytes_by_axis["dense_shard"]["reduce-scatter"] < 0.2 * sequences
    begun = load_config(
        "smoke", overrides=[*SPARSE, "training.dense_attention_steps=0", "training.indexer_warmup_steps=0"]
    )
    assert dry_run(begun, MEMORY, "cpu").ranks == sparse.ranks


@pytest.mark.parametrize(
    ("settings", "phase", "message"),
    [
        ((), "sparse", r"--phase=sparse is one of sparse attention, and model\.sparse_attention is not set"),
        (
            (*SPARSE, "training.dense_attention_steps=0"),
            "dense",
            r"--phase=dense: .*; there are steps for warmup, sparse",
        ),
        ((*SPARSE, "training.indexer_warmup_steps=0"), "warmup", r"no step for it; there are steps for dense, sparse"),
        ((*SPARSE, "training.steps=6"), "sparse", r"steps=6 leave no step for it; there are steps for dense, warmup"),
    ],
)
def test_a_phase_that_training_does_not_have_is_refused(settings, phase, message):
    with pytest.raises(ConfigError, match=message):
        dry_run(load_config("smoke", overrides=["training.processes=2", *settings]), MEMORY, "cpu", phase)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dry": True, "world_size": 3}, r"not a multiple of training.processes=3; .* would fit"),
        ({"dry": True, "world_size": 0}, "--world-size=0 is below 1"),
        ({"dry": True, "world_size": -4}, "--world-size=-4 is below 1"),
        ({"dry": True, "world_size": 10**23}, "training.processes: Input should be less than or equal to"),
        ({"dry": True, "world_size": 16_777_213}, r"would fit, or take training.processes=8$"),
        ({"dry": True, "world_size": 4, "memory_gb": 0.0}, "--memory-gb=0 is not the memory of a device"),
        ({"dry": True, "world_size": 4, "memory_gb": -3.0}, "--memory-gb=-3 is not"),
        ({"dry": True, "world_size": 4, "memory_gb": float("nan")}, "--memory-gb=nan is not"),
        ({"dry": True, "world_size": 4, "memory_gb": float("inf")}, "--memory-gb=inf is not"),
        ({"world_size": 4}, "belong to --dry-run"),
        ({"device": "H100 SXM"}, "belong to --dry-run"),
        ({"phase": "sparse"}, "belong to --dry-run"),
        ({"dry": True, "world_size": 4, "phase": "sprase"}, "--phase=sprase is none of dense, warmup, sparse"),
        ({"dry": True, "world_size": 4, "device": "Ascend 910Q"}, "not in the table.*; --device wants"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        pretrain_command("title")(preset="smoke", **options)


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zbv"])
def test_what_stages_of_a_pipeline_send_is_hidden_states_and_losses(schedule):
    settings = ("training.processes=2", "parallel.pipeline=2", "model.num_layers=4", "training.micro_batch_sequences=1")
    config = load_config("smoke", None, [*settings, f"parallel.schedule={schedule}", "training.precision=fp32"])
    first, last = dry_run(config, 1 << 34).ranks
    one = 4 * (config.corpus.sequence_length_tokens * config.model.hidden_size + 1)
    sent = {report.stage: report.bytes_by_axis["hidden states"]["send"] // (one * 8) for report in (first, last)}
    # forward from stages 0 and 2, backward from 1 and 3; in a V stages 1 and 2 are in one process
    assert sent == {"1f1b": {0: 1, 1: 1}, "interleaved": {0: 3, 1: 3}, "zbv": {0: 2, 1: 2}}[schedule]
