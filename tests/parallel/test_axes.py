"""The table of axes by itself: ranks of any number of processes, without any process."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.errors import ConfigError
from longcat.parallel.axes import BATCH, DENSE, EXPERT, SHARDS, SUMMED_OVER, Degrees, Grid, nearest_divisors, settle

degrees = st.builds(
    lambda expert, data: Degrees(expert * data, expert), st.integers(1, 64), st.integers(1, 768)
)  # up to 49,152 processes
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
    with pytest.raises(ValueError, match="no axis tensor; there are data"):
        Degrees(4).grid(DENSE).group(0, "tensor")
    with pytest.raises(ValueError, match="no grid has the axes data, expert"):
        Degrees(4).grid_of("data", "expert")


@given(degrees, st.data())
def test_every_view_has_all_ranks(table, data):
    rank = data.draw(st.integers(0, table.processes - 1))
    for view in (DENSE, EXPERT):
        grid = table.grid(view)
        assert grid.ranks == table.processes
        assert math.prod(grid.degree(name) for name in grid.names) == table.processes
    assert table.grid(EXPERT).degree("expert") == table.expert
    first = rank // table.expert * table.expert
    assert table.grid(EXPERT).group(rank, "expert") == tuple(range(first, first + table.expert))


@given(st.integers(1, 6), st.integers(1, 8))
def test_a_batch_is_read_once(expert, data):
    """Ranks with the same `batch_rank` share rows, and together the parts are the batch."""
    table = Degrees(expert * data, expert)
    places = [table.batch_rank(rank) for rank in range(table.processes)]
    assert set(places) == set(range(table.batch_world))
    for rank in range(table.processes):
        together = table.grid_of(*BATCH).group(rank, *BATCH)
        assert sorted(places[member] for member in together) == list(range(table.batch_world))


@given(st.integers(1, 6), st.integers(1, 8))
def test_each_element_of_each_parameter_is_counted_once_in_the_norm(expert, data):
    """Over the group of the norm, shards of dense parameters and of all experts are all there, each once."""
    table = Degrees(expert * data, expert)
    dense, experts = table.grid_of(SHARDS["dense"]), table.grid(EXPERT)
    axes = SUMMED_OVER["gradient_square"]
    for rank in range(table.processes):
        group = table.grid_of(*axes).group(rank, *axes)
        assert sorted(dense.place(member, SHARDS["dense"]) for member in group) == list(
            range(dense.degree(SHARDS["dense"]))
        )
        held = [(experts.place(member, "expert"), experts.place(member, SHARDS["expert"])) for member in group]
        assert sorted(held) == [(which, shard) for which in range(expert) for shard in range(data)]


def test_a_large_machine_by_hand():
    """LongCat-2.0's published number of devices, 64 of them to a set of experts."""
    table = Degrees(49_152, 64)
    experts = table.grid(EXPERT)
    assert experts.group(49_151, "expert") == tuple(range(49_088, 49_152))
    assert experts.group(65, "expert_data")[:3] == (1, 65, 129)
    assert len(experts.group(65, "expert_data")) == 768
    assert (table.batch_rank(49_151), table.batch_world) == (49_151, 49_152)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"processes": 2, "expert": 4},
            "parallel.expert=4 does not divide training.processes=2; 2 would",
        ),
        (
            {"processes": 12, "expert": 5},
            "parallel.expert=5 does not divide training.processes=12 and model.n_routed_experts=16; 4 would",
        ),
        (
            {"processes": 12, "expert": 12},
            "parallel.expert=12 does not divide model.n_routed_experts=16; 4 would",
        ),
        (
            {"processes": 3, "expert": 1},
            "training.global_batch_sequences=8 is not a multiple of training.processes=3; "
            "6 or 9 would be, or take training.processes=2",
        ),
        (
            {"processes": 16, "expert": 0},
            "training.global_batch_sequences=8 is not a multiple of training.processes=16; "
            "16 would be, or take training.processes=8",
        ),
        (
            {"processes": 12, "expert": 4},
            "training.global_batch_sequences=8 is not a multiple of training.processes=12; "
            "12 would be, or take training.processes=8",
        ),
        (
            {"processes": 9, "expert": 5},
            "parallel.expert=5 does not divide training.processes=9 and model.n_routed_experts=16; 1 would",
        ),
        ({"processes": -1, "expert": 1}, "training.processes=-1 is below 1"),
    ],
)
def test_refusals_name_what_would_fit(wanted, message):
    with pytest.raises(ConfigError) as caught:
        settle(wanted, batch_sequences=8, routed_experts=16)
    assert str(caught.value) == message


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64), st.integers(0, 64))
def test_what_a_refusal_proposes_fits(processes, batch, experts, asked):
    wanted = {"processes": processes, "expert": asked}
    try:
        table = settle(wanted, batch_sequences=batch, routed_experts=experts)
    except ConfigError as error:
        text = str(error)
        if "training.processes=" in (proposal := text.split(";")[1]):
            again = {**wanted, "processes": int(proposal.rsplit("=", 1)[1])}
            settle(again, batch_sequences=batch, routed_experts=experts)
        if "training.global_batch_sequences" in text:
            for size in proposal.split(" would")[0].split(" or "):
                settle(wanted, batch_sequences=int(size), routed_experts=experts)
        else:
            for degree in proposal.removesuffix(" would").split(" or "):
                settle({**wanted, "expert": int(degree)}, batch_sequences=processes, routed_experts=experts)
    else:
        assert table.processes % table.expert == 0 == experts % table.expert
        assert batch % table.batch_world == 0
        assert asked in (0, table.expert)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_nearest_divisors_divide(value, of):
    for divisor in map(int, nearest_divisors(value, of).split(" or ")):
        assert of % divisor == 0
