"""Settings of a sweep, the front of the best, and the scaling curve."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.benchmark.checks import check_benchmark
from longcat.benchmark.sweep import configured, pareto, points, scaling
from longcat.config import load_config
from longcat.errors import ConfigError


def config(*overrides):
    return load_config("smoke", None, overrides)


def test_nothing_asked_nothing_done():
    assert points(config(), 64, 2) == []


def test_every_combination_once():
    found = points(
        config("benchmark.sweep.micro_batch_sequences=[1,2]", "benchmark.sweep.activation_checkpointing=[none,full]"),
        64,
        2,
    )
    assert len(set(found)) == 4
    assert {point.sequence_length_tokens for point in found} == {64}
    changed = configured(config("benchmark.kernel_seconds=1"), found[-1])
    assert (changed.training.micro_batch_sequences, changed.training.activation_checkpointing) == (2, "full")
    assert changed.benchmark.kernel_seconds == 0
    assert not changed.benchmark.collective_bytes


def test_longer_sequences_than_the_model_was_made_for():
    (point,) = points(config("benchmark.sweep.sequence_length_tokens=[256]"), 64, 2)
    assert configured(config(), point).model.max_position_embeddings >= 256


@pytest.mark.parametrize(("processes", "kept"), [(4, (2, 2, 4)), (2, (2, 0, 0)), (8, (2, 0, 4)), (1, (1, 0, 0))])
def test_degrees_that_do_not_fit_are_left_open(processes, kept):
    asked = config(
        "parallel={replicate: 2, shard: 2, expert: 4}", f"benchmark.sweep.processes=[{processes}]",
        "training.global_batch_sequences=8",
    )  # fmt: skip
    (point,) = points(asked, 64, 4)
    layout = configured(asked, point).parallel
    assert (layout.replicate, layout.shard, layout.expert) == kept


@pytest.mark.parametrize(("processes", "kept"), [(8, (2, 2, 2)), (4, (2, 2, 1)), (2, (1, 1, 2))])
def test_axes_that_share_rows_are_kept_where_they_fit(processes, kept):
    """So a batch of as few rows as there are processes with rows of their own is enough."""
    asked = config(
        "parallel={replicate: 2, context: 2, tensor: 2}", f"benchmark.sweep.processes=[{processes}]",
        "training.global_batch_sequences=2",
    )  # fmt: skip
    (point,) = points(asked, 64, 8)
    layout = configured(asked, point).parallel
    assert (layout.context, layout.tensor, layout.replicate) == kept


def test_a_length_that_the_layout_cannot_divide_is_told_before_anything_is_timed():
    asked = config(
        "parallel.context=4", "training.processes=4", "accelerator=cpu", "corpus.sequence_length_tokens=64",
        "benchmark.sweep.sequence_length_tokens=[32,4]",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"^benchmark.sweep: .*sequence_length_tokens=4 is not a multiple of 8"):
        check_benchmark(asked)


def test_a_pipeline_has_the_micro_batches_that_rows_of_a_swept_length_make():
    asked = (
        "parallel.pipeline=2", "training.processes=4", "accelerator=cpu", "corpus.sequence_length_tokens=64",
        "model.num_layers=4", "training.micro_batch_sequences=1",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"^benchmark.sweep: .*=1 makes 1 micro-batch of a process' 1 sequences"):
        check_benchmark(config(*asked, "benchmark.sweep.sequence_length_tokens=[256]"))
    check_benchmark(config(*asked, "benchmark.sweep.sequence_length_tokens=[128]"))
    # 4 rows of the corpus make one micro-batch, but 8 shorter ones two
    shorter = "benchmark.sweep.sequence_length_tokens=[32]", "benchmark.sweep.micro_batch_sequences=[4]"
    check_benchmark(config(*asked, *shorter))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark.sweep.processes=[3]", "3 do not divide training.global_batch_sequences"),
        ("benchmark.sweep.processes=[0]", "benchmark.sweep.processes: 0 is below 1"),
        ("benchmark.sweep.sequence_length_tokens=[100]", "100 does not divide the"),
    ],
)
def test_mistakes_are_told_before_anything_is_timed(override, message):
    with pytest.raises(ConfigError, match=message):
        points(config(override), 64, 2)


ROW = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(
    lambda pair: {"tokens_per_second": pair[0], "peak_memory_bytes": pair[1]}
)


@given(st.lists(ROW | st.just({"error": "out of memory"}), max_size=9))
def test_the_front_beats_everything(rows):
    marks = pareto(rows)
    front = [row for row, mark in zip(rows, marks, strict=True) if mark]
    assert bool(front) == any("error" not in row for row in rows)
    for row, mark in zip(rows, marks, strict=True):
        if "error" in row:
            assert not mark
            continue
        better = [
            other for other in front
            if other["tokens_per_second"] >= row["tokens_per_second"] and other["peak_memory_bytes"] <= row["peak_memory_bytes"]
        ]  # fmt: skip
        assert better  # itself, or what beats it
        if mark:
            assert all(other == row for other in better)


def test_scaling_takes_the_best_of_each_count():
    rows = [
        {"processes": 1, "tokens_per_second": 10.0}, {"processes": 2, "tokens_per_second": 15.0},
        {"processes": 2, "tokens_per_second": 12.0}, {"processes": 4, "error": "out of memory"},
    ]  # fmt: skip
    assert scaling(rows) == [
        {"processes": 1, "tokens_per_second": 10.0, "efficiency": 1.0},
        {"processes": 2, "tokens_per_second": 15.0, "efficiency": 0.75},
    ]
    assert scaling(rows[:1]) == []
