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
SETTINGS = {
    "recomputation `full`": ("training.activation_checkpointing=full",),
    "recomputation `selective`": ("training.activation_checkpointing=selective", *EVERYTHING),
    "accumulation": (),  # micro-batches have one row anyway
    "documents masked": ("training.mask_documents=true",),
    "sparse attention": EVERYTHING,
    "n-gram tables by rows": (EVERYTHING[1], "parallel.embedding=true"),
    "optimizer state on the host": ("training.optimizer.offload=true", "training.optimizer.name=muon"),
    "Muon": ("training.optimizer.name=muon",),
    "a checkpoint": (),
    "tokens in chunks": ("parallel.chunks=2",),
    "tokens in two levels": ("parallel.two_level=true",),
}
"""What the rows below the axes mean, by how they begin."""


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


@pytest.mark.slow
@pytest.mark.parametrize(("row", "column"), PAIRS)
def test_a_pair_trains_what_one_process_does(ranks, tmp_path, row, column):
    settings = () if row in AXES else next(of for name, of in SETTINGS.items() if row.startswith(name))
    degrees = layout(*{row, column}.intersection(AXES))
    if row.startswith("tokens"):  # to experts: of two processes, or of two nodes
        experts = 2 if "chunks" in row or degrees.pipeline > 1 else 4
        degrees = dataclasses.replace(degrees, processes=4, expert=experts, replicate=min(degrees.replicate, 2))
        settings = (*settings, f"parallel.devices_per_node={experts // 2}")
    assert all(getattr(degrees, axis.strip("`")) > 1 for axis in (row, column) if axis in AXES)
    if degrees.pipeline > 1:
        settings = (*settings, "model.num_layers=2")
    case = Case(rows=8, overrides=settings, padded=row.startswith("documents"), steps=2)
    alone = row.startswith("a checkpoint")
    expected = ranks.on_mesh(Degrees(1), train, case, tmp_path / "state", 1 if alone else None)[0]
    found = ranks.on_mesh(degrees, train, case, tmp_path / "state", None, alone)[0]
    assert found.micro_batches == 8 // degrees.batch_world > 1
    if alone:
        expected, found = expected.after(1), found.after(0)
    compare(found, expected, **limits(degrees))
