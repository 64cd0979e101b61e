"""The table of axes by itself: ranks of any number of processes, without any process."""

import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.costs.stages import STAGES_EACH
from longcat.errors import ConfigError
from longcat.parallel.axes import (
    BATCH,
    DENSE,
    EXPERT,
    HOLDERS,
    SHARDS,
    SQUARES,
    SUMMED_OVER,
    TABLES,
    TOKENS,
    VIEWS,
    Degrees,
    Grid,
    Wish,
    nearest_divisor,
    token_pieces,
)

MOST = 49_152
"""LongCat-2.0's published number of devices."""


@st.composite
def layouts(draw, most=MOST):
    """Degrees of any number of processes that has divisors."""
    processes = draw(
        st.sampled_from([most]) | st.integers(1, most) | st.integers(1, most // 64).map(lambda number: number * 64)
    )

    def degree(of):
        return draw(st.sampled_from([number for number in range(1, min(of, 1024) + 1) if of % number == 0]))

    pipeline = degree(processes)
    stage = processes // pipeline
    replicate = degree(stage)
    context = degree(stage // replicate)
    tensor = degree(stage // (replicate * context))
    return Degrees(processes, degree(stage), replicate, pipeline, context, tensor)


grids = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(
    lambda sizes: Grid(tuple(f"axis{number}" for number in range(len(sizes))), tuple(sizes))
)


@given(grids, st.data())
def test_groups_of_any_axes_divide_the_ranks(grid, data):
    """Every rank is in one group, at the place that the grid says, and groups of disjoint axes meet in one rank."""
    axes = data.draw(st.lists(st.sampled_from(grid.names), unique=True))
    others = [name for name in grid.names if name not in axes]
    rank = data.draw(st.integers(0, grid.ranks - 1))
    group = grid.group(rank, *axes)
    assert len(group) == grid.degree(*axes)
    assert list(group) == sorted(set(group))
    assert group[grid.place(rank, *axes)] == rank
    assert all(grid.group(member, *axes) == group for member in group[:5])
    assert len({grid.place(member, *others) for member in group}) == 1
    assert set(group) & set(grid.group(rank, *others)) == {rank}
    assert grid.degree(*axes) * grid.degree(*others) == grid.ranks


@given(grids)
def test_places_along_all_axes_are_the_ranks(grid):
    assert [grid.place(rank, *grid.names) for rank in range(grid.ranks)] == list(range(grid.ranks))
    assert grid.group(0, *grid.names) == tuple(range(grid.ranks))


def test_axes_are_named():
    with pytest.raises(ValueError, match="no axis shard; there are pipeline, replicate, dense_shard, tensor"):
        Degrees(4).grid(DENSE).group(0, "shard")
    with pytest.raises(ValueError, match="no grid has the axes shard, expert"):
        Degrees(4).grid_of("shard", "expert")


@given(layouts(), st.data())
def test_every_view_has_all_ranks(table, data):
    rank = data.draw(st.integers(0, table.processes - 1))
    for view in VIEWS.values():
        grid = table.grid(view)
        assert grid.ranks == table.processes
        assert math.prod(grid.degree(name) for name in grid.names) == table.processes
        for name in grid.names:
            group = grid.group(rank, name)
            assert len(group) == getattr(table, name)
            assert rank in group
            assert all(0 <= member < table.processes for member in group)
    first = rank // table.expert * table.expert
    assert table.grid(EXPERT).group(rank, "expert") == tuple(range(first, first + table.expert))


@given(layouts(512))
def test_every_rank_is_in_one_group_of_each_axis(table):
    for view in VIEWS.values():
        grid = table.grid(view)
        for name in grid.names:
            groups = {grid.group(rank, name) for rank in range(table.processes)}
            assert sorted(rank for group in groups for rank in group) == list(range(table.processes))
            assert {len(group) for group in groups} == {getattr(table, name)}


@given(layouts(), st.data())
def test_sets_of_experts_cover_whole_groups_of_shards(table, data):
    """A process that replaces another one's copy of an expert never has to gather more dense shards than it has."""
    grids = table.grid(DENSE), table.grid(EXPERT)
    rank = data.draw(st.integers(0, table.processes - 1))
    shards, experts = grids[0].group(rank, "dense_shard", "tensor"), grids[1].group(rank, "expert_shard", "expert")
    assert set(shards) <= set(experts)
    assert table.expert_replicate <= table.replicate
    if len(shards) % table.expert == 0:
        assert shards == experts


@given(layouts(), st.data())
def test_shards_are_those_of_rows_and_tokens(table, data):
    """The processes that share a dense parameter's shards are those with other rows, or other tokens, of one copy."""
    rank = data.draw(st.integers(0, table.processes - 1))
    assert table.grid(DENSE).group(rank, "dense_shard") == table.grid(TOKENS).group(rank, "shard", "context")
    for axis in ("pipeline", "replicate", "tensor"):
        assert table.grid(DENSE).group(rank, axis) == table.grid(TOKENS).group(rank, axis)
    stage = table.grid(TOKENS).group(rank, "replicate", "shard", "context", "tensor")
    assert stage == table.grid(TABLES).group(rank, "embedding")
    assert stage == table.grid(EXPERT).group(rank, "expert_replicate", "expert_shard", "expert")
    assert len(stage) == table.stage


@given(layouts(64))
def test_a_batch_is_read_once(table):
    """Ranks with the same `batch_rank` share rows, and together the parts are the batch."""
    places = [table.batch_rank(rank) for rank in range(table.processes)]
    assert set(places) == set(range(table.batch_world))
    for rank in range(table.processes):
        together = table.grid_of(*BATCH).group(rank, *BATCH)
        assert sorted(places[member] for member in together) == list(range(table.batch_world))


@given(layouts(64))
def test_each_element_of_each_parameter_is_counted_once_in_the_norm(table):
    """Over the group of a square, the shards of all parameters of its kind are there, each once; copies are elsewhere."""
    divided = {"dense": (), "divided": ("tensor",), "expert": ("expert",), "table": ()}
    for kind, square in SQUARES.items():
        axes = SUMMED_OVER[square]
        grid = table.grid_of(*axes)
        split = ("pipeline", *divided[kind], SHARDS[kind])
        for rank in range(table.processes):
            held = [tuple(grid.place(member, axis) for axis in split) for member in grid.group(rank, *axes)]
            assert sorted(held) == list(itertools.product(*(range(grid.degree(axis)) for axis in split)))
            copies = grid.group(rank, *HOLDERS[kind]) if HOLDERS[kind] else (rank,)  # rows of tables have no copy
            assert len({tuple(grid.place(member, axis) for axis in split) for member in copies}) == 1


def test_large_machines_by_hand():
    """64 processes to a set of experts, and shards within a node of 16 processes."""
    table = Degrees(MOST, 64)
    experts = table.grid(EXPERT)
    assert experts.group(49_151, "expert") == tuple(range(49_088, 49_152))
    assert experts.group(65, "expert_shard")[:3] == (1, 65, 129)
    assert len(experts.group(65, "expert_shard")) == 768
    assert (table.batch_rank(49_151), table.batch_world) == (49_151, 49_152)
    within_nodes = Degrees(MOST, 64, MOST // 16)
    assert (within_nodes.shard, within_nodes.expert_shard, within_nodes.expert_replicate) == (16, 1, 768)
    assert within_nodes.grid(DENSE).group(17, "dense_shard") == tuple(range(16, 32))
    assert within_nodes.grid(EXPERT).group(17, "expert_replicate")[:3] == (17, 81, 145)
    across = Degrees(24, 6, 6)  # neither divides the other
    assert (across.shard, across.expert_shard, across.expert_replicate) == (4, 2, 2)
    assert across.grid(EXPERT).group(7, "expert_shard") == (1, 7)
    six = Degrees(MOST, 64, replicate=8, pipeline=16, context=4, tensor=2)
    assert (six.stage, six.shard, six.dense_shard, six.expert_shard, six.expert_replicate) == (3072, 48, 192, 6, 8)
    assert six.grid(TOKENS).group(3073, "pipeline")[:3] == (1, 3073, 6145)
    assert six.grid(TOKENS).group(13, "context") == (9, 11, 13, 15)
    assert (six.batch_world, six.batch_rank(3072 + 9), six.batch_rank(8)) == (384, 1, 1)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (
            {"processes": 2, "expert": 4},
            "parallel.expert=4 does not divide training.processes=2; parallel.expert=2 would fit",
        ),
        (
            {"processes": 8, "expert": 5},
            "parallel.expert=5 does not divide training.processes=8 and model.n_routed_experts=16; parallel.expert=4 would fit",
        ),
        (
            {"processes": 4, "expert": 8},
            "parallel.expert=8 does not divide training.processes=4; parallel.expert=4 would fit",
        ),
        (
            {"processes": 3},
            "training.global_batch_sequences=8 is not a multiple of training.processes=3; "
            "training.global_batch_sequences=9 would fit, or take training.processes=2",
        ),
        (
            {"processes": 16},
            "training.global_batch_sequences=8 is not a multiple of training.processes=16; "
            "training.global_batch_sequences=16 would fit, or take training.processes=8",
        ),
        (
            {"processes": 12, "expert": 4},
            "training.global_batch_sequences=8 is not a multiple of training.processes=12; "
            "training.global_batch_sequences=12 would fit, or take training.processes=8",
        ),
        (
            {"processes": 9, "expert": 5},
            "parallel.expert=5 does not divide training.processes=9 and model.n_routed_experts=16 and "
            "training.global_batch_sequences=8 is not a multiple of training.processes=9; "
            "parallel.expert=1 with training.global_batch_sequences=9 would fit",
        ),
        (
            {"processes": 8, "replicate": 3},
            "parallel.replicate=3 does not divide training.processes=8; parallel.replicate=4 would fit",
        ),
        (
            {"processes": 8, "replicate": 3, "shard": 2},
            "parallel.replicate=3 x parallel.shard=2 is 6, not training.processes=8; parallel.replicate=4 would fit",
        ),
        (
            {"processes": 8, "replicate": 2, "shard": 3},
            "parallel.replicate=2 x parallel.shard=3 is 6, not training.processes=8; parallel.shard=4 would fit",
        ),
        (
            {"processes": 8, "replicate": 2, "shard": 2},
            "parallel.replicate=2 x parallel.shard=2 is 4, not training.processes=8; "
            "parallel.replicate=4 would fit, or take training.processes=4",
        ),
        (
            {"processes": 8, "replicate": 3, "shard": 3},
            "parallel.replicate=3 x parallel.shard=3 is 9, not training.processes=8; "
            "parallel.replicate=2 with parallel.shard=4 would fit",
        ),
        (
            {"processes": 8, "pipeline": 3, "micro_batch_sequences": 1},
            "parallel.pipeline=3 does not divide training.processes=8; "
            "parallel.pipeline=4 would fit, or take training.processes=6",
        ),
        (
            {"processes": 8, "pipeline": 2, "micro_batch_sequences": 1, "tensor": 3},
            "parallel.pipeline=2 x parallel.tensor=3 is 6, which does not divide training.processes=8; "
            "parallel.tensor=4 would fit, or take training.processes=6",
        ),
        (
            {"processes": 8, "pipeline": 4, "layers": 6, "schedule": "interleaved", "micro_batch_sequences": 1},
            "parallel.pipeline=4 with parallel.schedule=interleaved makes 8 stages, more than model.num_layers=6; parallel.pipeline=2 would fit",
        ),
        (
            {"processes": 8, "tensor": 8, "widths": (("model.num_attention_heads", 4),)},
            "parallel.tensor=8 does not divide model.num_attention_heads=4; parallel.tensor=4 would fit",
        ),
        (
            {"processes": 8, "tensor": 8, "vocabulary": 20},
            "parallel.tensor=8 leaves a process without any of model.vocab_size=20 words; parallel.tensor=4 would fit",
        ),
        (
            {"processes": 4, "context": 4, "sequence_length": 36},
            "corpus.sequence_length_tokens=36 is not a multiple of 8, as parallel.context=4 needs it; "
            "parallel.context=2 would fit",
        ),
        (
            {"processes": 8, "pipeline": 4, "expert": 4, "micro_batch_sequences": 1},
            "parallel.expert=4 does not divide training.processes=8 / parallel.pipeline=4; parallel.expert=2 would fit",
        ),
        (
            {"processes": 8, "context": 2, "batch_sequences": 6},
            "training.global_batch_sequences=6 is not a multiple of 4 processes with rows of their own; "
            "training.global_batch_sequences=8 would fit, or take training.processes=6",
        ),
        (
            {"processes": 6, "tensor": 4, "widths": (("model.num_attention_heads", 7),), "shard": 1},
            "parallel.replicate=1 x parallel.shard=1 x parallel.tensor=4 is 4, not training.processes=6 and "
            "parallel.tensor=4 does not divide model.num_attention_heads=7; "
            "parallel.replicate=6 with parallel.tensor=1 with training.global_batch_sequences=6 would fit",
        ),
        (
            {"processes": 2, "pipeline": 2},
            "training.micro_batch_sequences=0 makes 1 micro-batch of a process' 8 sequences, and parallel.pipeline=2 needs "
            "at least 2; training.micro_batch_sequences=4 would fit",
        ),
        (
            {"processes": 4, "pipeline": 2, "micro_batch_sequences": 4},
            "training.micro_batch_sequences=4 makes 1 micro-batch of a process' 4 sequences, and parallel.pipeline=2 needs "
            "at least 2; training.micro_batch_sequences=2 would fit, or take training.processes=2",
        ),
        (
            {"processes": 2, "pipeline": 2, "micro_batch_sequences": 3},
            "training.micro_batch_sequences=3 does not divide a process' 8 sequences, as parallel.pipeline=2 needs it; "
            "training.micro_batch_sequences=4 would fit",
        ),
        (
            {
                "processes": 4,
                "pipeline": 4,
                "micro_batch_sequences": 2,
                "batch_sequences": 12,
                "schedule": "interleaved",
            },
            "training.micro_batch_sequences=2 makes 6 micro-batches of a process' 12 sequences, and parallel.pipeline=4 needs "
            "with parallel.schedule=interleaved a multiple of 4; training.micro_batch_sequences=3 would fit",
        ),
        (
            {"processes": 8, "pipeline": 4, "micro_batch_sequences": 2, "batch_sequences": 4},
            "training.micro_batch_sequences=2 makes 1 micro-batch of a process' 2 sequences, and parallel.pipeline=4 needs "
            "at least 4; training.global_batch_sequences=16 would fit",
        ),
        ({"processes": -1, "expert": 1}, "training.processes=-1 is below 1"),
        ({"processes": 2, "context": 0}, "parallel.context=0 is below 1"),
        ({"processes": 2, "replicate": 0}, "parallel.replicate=0 is below 1"),
    ],
)
def test_refusals_name_what_would_fit(wish, message):
    with pytest.raises(ConfigError) as caught:
        Wish(**{"batch_sequences": 8, "routed_experts": 16, **wish}).settle()
    assert str(caught.value) == message


def proposals(message):
    """The changes that a refusal names, as fields of `Wish`."""
    names = {
        "training.processes": "processes",
        "training.global_batch_sequences": "batch_sequences",
        "training.micro_batch_sequences": "micro_batch_sequences",
    }
    for proposal in message.rsplit("; ", 1)[1].replace(" would fit", "").split(", or take "):
        changes = dict(change.split("=") for change in proposal.split(" with "))
        yield {names.get(key, key.removeprefix("parallel.")): int(value) for key, value in changes.items()}


degrees_asked = st.integers(0, 64) | st.sampled_from([96, 128, 768, 3072])


small_degrees = st.sampled_from([1, 1, 2, 3, 4, 6, 16])


@given(
    st.builds(
        Wish,
        st.integers(1, 64) | st.sampled_from([768, 3072, MOST, MOST - 1]),
        degrees_asked.map(lambda number: number or 1),
        degrees_asked,
        degrees_asked,
        st.integers(1, 64) | st.sampled_from([MOST, 2 * MOST]),
        st.integers(1, 64) | st.just(768),
        small_degrees,
        small_degrees,
        small_degrees,
        st.sampled_from(list(STAGES_EACH)),
        st.integers(0, 40),
        st.sampled_from([0, 24, 32, 8192, 8191]),
        st.sampled_from([(), (("model.num_attention_heads", 64),), (("a", 12), ("b", 6))]),
        st.sampled_from([0, 5, 20, 163_840]),
        st.integers(0, 8),
    )
)
def test_what_a_refusal_proposes_fits(wish):
    try:
        table = wish.settle()
    except ConfigError as error:
        if "would fit" not in str(error) and "; take" not in str(error):  # and then there is none
            assert not list(wish._layouts())
            return
        found = list(proposals(str(error)))
        assert found
        for changes in found:
            assert changes
            assert all(getattr(wish, name) != value for name, value in changes.items())
            again = dataclasses.replace(wish, **changes).settle()
            assert again.processes == changes.get("processes", wish.processes)
    else:
        assert table.pipeline * table.replicate * table.shard * table.context * table.tensor == table.processes
        assert table.stage % table.expert == 0 == wish.routed_experts % table.expert
        assert wish.batch_sequences % table.batch_world == 0
        assert wish.sequence_length % token_pieces(table.context, table.tensor) == 0
        assert wish.expert in (0, table.expert)
        assert wish.shard in (0, table.shard)
        for name in ("pipeline", "replicate", "context", "tensor"):
            assert getattr(wish, name) == getattr(table, name)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_nearest_divisors_divide(value, of):
    found = nearest_divisor(value, of)
    assert of % found == 0
    others = [number for number in range(1, of + 1) if of % number == 0]
    assert max(found, value) / min(found, value) == min(max(n, value) / min(n, value) for n in others)


@pytest.mark.parametrize(
    ("degrees", "message"),
    [
        ({"processes": 8, "expert": 3}, "parallel.expert=3 does not divide training.processes=8"),
        ({"processes": 8, "replicate": 5}, "parallel.replicate=5 does not divide training.processes=8"),
        ({"processes": 0}, "training.processes=0 is below 1"),
        (
            {"processes": 8, "pipeline": 4, "tensor": 4},
            "parallel.pipeline=4 x parallel.tensor=4 is 16, which does not divide training.processes=8",
        ),
    ],
)
def test_degrees_that_do_not_divide_are_refused(degrees, message):
    with pytest.raises(ConfigError) as caught:
        Degrees(**degrees)
    assert str(caught.value) == message
