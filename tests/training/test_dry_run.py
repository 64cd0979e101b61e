"""A dry run foresees what a step of real processes does."""

import pytest

from longcat.config import load_config
from longcat.parallel.axes import Degrees
from longcat.training.dry_run import dry_run
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
    assert many.worst.peak_bytes == more.worst.peak_bytes
    for axis, collectives in many.worst.bytes_by_axis.items():
        for collective, amount in collectives.items():
            one, two = (of.worst.bytes_by_axis[axis][collective] for of in (few, more))
            assert amount == one + 5 * (two - one), (axis, collective)
    assert many.worst.flops == few.worst.flops + 5 * (more.worst.flops - few.worst.flops)
