"""How the tokens of rows are divided: every token once, attention's work evenly, and what is taken from whole rows."""

import pytest
import torch

from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.model.context import runs_of
from longcat.model.places import WHOLE, take
from longcat.parallel.axes import token_pieces
from longcat.parallel.context import Division, reaching

DIVISIONS = [Division(context, tensor) for context in (1, 2, 3, 4, 64) for tensor in (1, 2, 4)]


@pytest.mark.parametrize("division", DIVISIONS, ids=str)
def test_every_token_is_computed_once(division):
    length = 3 * token_pieces(*division)
    places = division.pieces(length // (division.context * division.tensor))
    assert len(places) == division.context * division.tensor
    assert len({sum(map(len, runs)) for runs in places}) == 1
    positions = [position for runs in places for run in runs for position in run]
    assert sorted(positions) == list(range(length))


@pytest.mark.parametrize("division", DIVISIONS, ids=str)
def test_runs_of_heads_are_made_up_of_own_ones(division):
    """So each run is one call of attention, whose queries are those of one process after those of the other."""
    length = 2 * token_pieces(*division)
    for place in range(division.context):
        chunks = division.chunks(length, place)
        own = [division.own(length, place, other) for other in range(division.tensor)]
        for number, chunk in enumerate(chunks):
            assert [position for runs in own for position in runs[number]] == list(chunk)


@pytest.mark.parametrize("context", [2, 4, 64])
def test_attention_costs_every_process_the_same(context):
    division, length = Division(context, 1), 256
    costs = {sum(position for run in division.chunks(length, place) for position in run) for place in range(context)}
    assert len(costs) == 1


def test_a_row_that_cannot_be_divided_is_refused():
    with pytest.raises(ValueError, match="30 tokens cannot be divided over 4 x 1"):
        Division(4, 1).own(30, 0, 0)


def test_each_run_is_the_last_positions_of_its_keys():
    starts = torch.tensor([[0, 0, 0, 0, 4, 4, 4, 4], [0, 0, 2, 2, 2, 2, 6, 6]])
    first, second = runs_of([range(2, 4), range(4, 6)], 0, starts)
    assert (first.start, first.stop, first.keys, second.start, second.stop, second.keys) == (0, 2, 4, 2, 4, 6)
    assert second.document_starts.tolist() == [[4, 4], [2, 2]]
    tokens = torch.arange(4)[None]
    assert second.of(tokens).tolist() == [[2, 3]]
    assert first.read(torch.arange(8)[None]).tolist() == [[0, 1, 2, 3]]


def test_words_ahead_of_a_run_are_those_of_the_row():
    """Rolling the tokens that are here would take the other chunk's for those that follow."""
    division, rows = Division(2, 1), torch.arange(100, 116)[None]
    for place in range(2):
        runs = division.own(16, place, 0)
        found, behind = reaching(rows, runs, 2)
        expected = [position for run in runs for position in range(run.start, run.stop + 2)]
        assert behind.tolist() == [position >= 16 for position in expected]
        inside = [100 + position for position in expected if position < 16]
        assert found[0, ~behind].tolist() == inside


def test_whole_rows_are_not_copied():
    rows = torch.arange(6)[None]
    assert take(rows, WHOLE.own(6)) is rows
    config = load_config("smoke").model
    context = LongcatModel(config).model.context(rows, None, None, "sparse")
    assert context.heads is context.own
    assert context.own[0].of(rows) is rows
