"""What each rank holds, and the picture of it."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.benchmark.holdings import Whole, holdings
from longcat.benchmark.layout_plot import layout
from longcat.parallel.axes import TOKENS, VIEWS, Degrees
from longcat.parallel.context import Division

WHOLE = Whole(layers=13, rows=48, tokens=144, heads=24, experts=48, table_rows=1001)
DEGREE = st.sampled_from([1, 2, 3])


@st.composite
def layouts(draw):
    pipeline, replicate, shard, context, tensor = (draw(DEGREE) for _ in range(5))
    stage = replicate * shard * context * tensor
    expert = draw(st.sampled_from([number for number in (1, 2, 3, 4, 6) if stage % number == 0]))
    return Degrees(pipeline * stage, expert, replicate, pipeline, context, tensor)


def held(degrees):
    return [{one.thing: one for one in holdings(degrees, rank, WHOLE)} for rank in range(degrees.processes)]


@given(layouts())
def test_the_ranks_of_a_stage_hold_everything_between_them(degrees):
    of_ranks = held(degrees)
    for thing in of_ranks[0]:
        covered = sum(
            {span: span[1] - span[0] for one in of_ranks[: degrees.stage] for span in one[thing].spans}.values()
        )
        own = sum(end - begin for begin, end in of_ranks[0][thing].spans)
        if thing == "layers":
            assert covered == pytest.approx(own), "the same ones"
        else:
            assert covered == pytest.approx(1)
            assert len({one[thing].spans for one in of_ranks[: degrees.stage]}) == of_ranks[0][thing].parts
    if degrees.pipeline > 1:
        stages = {one["layers"].spans for one in of_ranks}
        assert sum(end - begin for spans in stages for begin, end in spans) == pytest.approx(1)


@given(layouts())
def test_ranks_that_compute_the_same_tokens_of_the_same_layers_are_none(degrees):
    work = [
        tuple(one[thing].spans if thing in one else () for thing in ("layers", "rows", "tokens"))
        for one in held(degrees)
    ]
    assert len(set(work)) == degrees.processes


@given(layouts())
def test_tokens_are_those_that_a_rank_computes(degrees):
    division = Division(degrees.context, degrees.tensor)
    work = degrees.grid(TOKENS)
    for rank, one in enumerate(held(degrees)):
        own = division.own(WHOLE.tokens, work.place(rank, "context"), work.place(rank, "tensor"))
        spans = one["tokens"].spans if "tokens" in one else ((0, 1),)
        assert [(round(WHOLE.tokens * begin), round(WHOLE.tokens * end)) for begin, end in spans] == [
            (run.start, run.stop) for run in own
        ]


def test_by_hand():
    """Four places along context: each two chunks, from both ends of a row of 144; two of tensor take a half of each."""
    found = held(Degrees(8, context=4, tensor=2))
    assert [one["tokens"].text for one in found[:4]] == [
        "0–8, 126–134",
        "9–17, 135–143",
        "18–26, 108–116",
        "27–35, 117–125",
    ]
    assert [one["heads"].text for one in found] == ["0–11", "12–23"] * 4
    assert found[0]["weights"].text == "1 of 4"
    assert [one["tokens"].text for one in held(Degrees(2, context=2))] == ["0–35, 108–143", "36–71, 72–107"]


def test_tables_are_on_the_first_stage():
    found = held(Degrees(4, pipeline=2))
    assert [one["tables"].text for one in found] == ["1 of 2", "2 of 2", "none", "none"]
    assert [one["layers"].text for one in found] == ["0–6", "0–6", "7–12", "7–12"]
    assert held(Degrees(1)) == [{}]


def texts(figure):
    return [text.get_text().replace("\n", ", ") for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(
    "degrees", [Degrees(2, expert=2), Degrees(8, 4, 2, 2), Degrees(6, pipeline=3), Degrees(4, context=2, tensor=2)]
)
def test_few_ranks_are_all_in_the_picture(degrees, narrow):
    shown = texts(layout(degrees, WHOLE, narrow=narrow))
    for rank in range(degrees.processes):
        assert sum(text.split(",")[0] == f"rank {rank}" for text in shown) == 1
        for one in holdings(degrees, rank, WHOLE):
            assert one.text in shown
            assert one.thing in shown


@pytest.mark.parametrize("narrow", [False, True])
def test_of_many_ranks_every_axis_is_in_the_picture(narrow):
    degrees = Degrees(49_152, pipeline=16, replicate=12, context=4, tensor=4, expert=64)
    shown = texts(layout(degrees, Whole(32, 3072, 131_072, 64, 768, 10**8), narrow=narrow))
    for view in VIEWS.values():
        names = [axis.name for axis in view]
        assert prod(getattr(degrees, name) for name in names) == 49_152
        for name in names:
            assert any(text.startswith(f"{name} × {getattr(degrees, name):,}: ") for text in shown)
    assert any("2 of 32 layers" in text for text in shown)
    assert any("12 of 768 experts" in text for text in shown)
    assert "rank 0 of 49,152 holds" in shown
