"""Every pair of settings that docs/parallel.md says compose is trained, and is what one process trains."""

import dataclasses
import math

import pytest

from longcat.config import ParallelConfig
from longcat.parallel.axes import Degrees
from longcat.provenance import ROOT
from tests.parallel.training import EVERYTHING, Case, compare, limits, train

AXES = {
    "`pipeline`": {"pipeline": 2},
    "`replicate`": {"replicate": 2},
    "`shard`": {},
    "`context`": {"context": 2},
    "`tensor`": {"tensor": 2},
    "`expert`": {"expert": 2},
}
"""Degrees that make two processes differ along each axis; `shard` takes what is left."""
SPARSE, NGRAMS, MUON = EVERYTHING, EVERYTHING[1], "training.optimizer.name=muon"
SETTINGS = {
    "recomputation `full`": ("training.activation_checkpointing=full",),
    "recomputation `selective`": ("training.activation_checkpointing=selective",),
    "accumulation": ("training.micro_batch_sequences=1",),
    "documents masked": ("training.mask_documents=true",),
    "sparse attention": SPARSE,
    "n-gram tables by rows": (NGRAMS, "parallel.embedding=true"),
    "optimizer state on the host": ("training.optimizer.offload=true",),
    "Muon": (MUON,),
    "a checkpoint": (),
    "tokens in chunks": ("parallel.chunks=2",),
    "tokens in two levels": ("parallel.two_level=true",),
}
"""What the rows below the axes mean, by how they begin."""
LARGER = ("model.num_layers=2", "model.initializer_range=0.05")
"""A layer for each stage; and weights with which rounding moves gradients less, of norms for instance, whose terms cancel."""
TOGETHER = {
    "recomputed whole": (
        "recomputation `full`",
        "accumulation",
        "documents masked",
        "sparse attention",
        "n-gram tables by rows",
        "optimizer state on the host",
        "Muon",
    ),
    "recomputed in part": ("recomputation `selective`", "accumulation", "sparse attention", "tokens in chunks"),
    "resumed": ("a checkpoint", "accumulation", "sparse attention", "Muon"),
    "in two levels": ("tokens in two levels", "accumulation", "documents masked"),
}
"""Rows that are tried in one run: each of them in the first one that has it."""
BESIDE = {
    "`pipeline`": "`shard`",
    "`replicate`": "`tensor`",
    "`shard`": "`pipeline`",
    "`context`": "`shard`",
    "`tensor`": "`replicate`",
    "`expert`": "`expert`",
}
"""With which axis each one is tried that has settings: a pair that is tried anyway, so one run proves both."""


def table():
    """Rows of the table as `{row: {column: entry}}`."""
    text = (ROOT / "docs" / "parallel.md").read_text(encoding="utf-8").split("## What composes")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    (_, *columns), _, *rows = rows
    return {name: dict(zip(columns, entries, strict=True)) for name, *entries in rows}


TABLE = table()
PAIRS = [
    (row, column)
    for row, entries in TABLE.items()
    for column, entry in entries.items()
    if entry == "yes" and (row not in AXES or row < column)
]


def layout(*axes):
    """The fewest processes that differ along all these axes."""
    degrees = {name: degree for axis in axes for name, degree in AXES[axis].items()}
    processes = 2 ** len(axes)
    if "`shard`" not in axes:  # then no rows are, and experts are in all of the copies
        divided = [degrees.get(name, 1) for name in ("pipeline", "context", "tensor")]
        degrees["replicate"] = processes // math.prod(divided)
    return Degrees(processes, **degrees)


def test_the_table_knows_every_axis():
    axes = {f"`{name}`" for name in ParallelConfig.model_fields if name in Degrees().by_axis}
    assert set(AXES) == axes == set(next(iter(TABLE.values()))) == {name for name in TABLE if name[0] == "`"}
    for row, entries in TABLE.items():
        assert {column: entry for column, entry in entries.items() if entry != "yes"} == (
            {row: ""} if row in AXES else {}
        )
        for column in AXES:
            assert row not in AXES or TABLE[column][row] == TABLE[row][column]
    assert all(any(row.startswith(name) for row in TABLE) for name in SETTINGS)


def test_what_is_tried_together_has_every_row():
    assert {row for rows in TOGETHER.values() for row in rows} == set(SETTINGS)


@pytest.fixture(scope="module")
def trained(ranks, tmp_path_factory):
    """Trains a group of settings under a layout once; returns what came of it, and of one process."""
    done = {}

    def once(key, how):
        if key not in done:
            done[key] = how()
        return done[key]

    def of(group, degrees):
        settings = [setting for row in TOGETHER[group] for setting in SETTINGS[row]]
        own = () if group != "in two levels" else (f"parallel.devices_per_node={degrees.expert // 2}",)
        rows = 2 * degrees.batch_world
        case = Case(rows, (*LARGER, *settings), 2, padded="documents masked" in TOGETHER[group])
        folder = once(("folder", group, rows), lambda: tmp_path_factory.mktemp("state") / "state")
        resumes = group == "resumed"
        expected = once(
            (group, rows), lambda: ranks.on_mesh(Degrees(1), train, case, folder, 1 if resumes else None, stay=True)[0]
        )
        here = dataclasses.replace(case, overrides=(*case.overrides, *own))
        found = once((group, degrees), lambda: ranks.on_mesh(degrees, train, here, folder, None, resumes, stay=True)[0])
        return (found.after(0), expected.after(1)) if resumes else (found, expected)

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("row", "column"), PAIRS)
def test_a_pair_trains_what_one_process_does(trained, row, column):
    group = next((of for of, rows in TOGETHER.items() if any(row.startswith(name) for name in rows)), None)
    if row in AXES:
        group = "recomputed in part" if "`expert`" in (row, column) else "recomputed whole"
        degrees = layout(row, column)
    elif group == "recomputed in part":  # tokens in chunks go to experts
        degrees = layout(*{column, "`expert`"})
    elif group == "recomputed whole":
        degrees = layout(*{column, BESIDE[column]})
    else:
        degrees = layout(column)
    if group == "in two levels":  # to experts of two nodes
        experts = 2 if degrees.pipeline > 1 else 4
        degrees = dataclasses.replace(degrees, processes=4, expert=experts, replicate=min(degrees.replicate, 2))
    assert all(getattr(degrees, axis.strip("`")) > 1 for axis in (row, column) if axis in AXES)
    found, expected = trained(group, degrees)
    assert found.micro_batches == 2
    # where a gradient is next to 0, AdamW's first step takes the sign of its rounding, on some processors
    after = {"weights": 5e-3, "later_norms": 2e-5} if group == "in two levels" and degrees.pipeline > 1 else {}
    compare(found, expected, **limits(degrees), **after)
