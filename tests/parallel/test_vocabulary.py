"""The vocabulary divided over processes: loss, embedding and gradients are those of one process."""

import pytest
import torch

from longcat.parallel.axes import Degrees
from longcat.parallel.vocabulary import own_rows
from tests.parallel import vocabulary


@pytest.mark.parametrize(("total", "processes"), [(1, 1), (11, 2), (11, 3), (12, 4), (163_840, 7)])
def test_every_row_is_one_process_own(total, processes):
    rows = [own_rows(total, processes, place) for place in range(processes)]
    assert [number for part in rows for number in part] == list(range(total))
    assert [len(part) for part in rows] == [len(part) for part in torch.empty(total).chunk(processes)]


def test_a_process_without_rows_is_refused_in_all_of_them():
    for place in range(4):
        with pytest.raises(ValueError, match="a vocabulary of 5 cannot be divided over 4 processes, 2 rows each"):
            own_rows(5, 4, place)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("chunk", [4, 100])
@pytest.mark.parametrize("processes", [2, 3])
def test_loss_and_gradients_are_those_of_the_whole_head(ranks, processes, chunk, bad):
    for errors in ranks.on_mesh(Degrees(processes), vocabulary.loss, 18, 47, chunk, torch.float32, bad, stay=True):
        assert all(error < 1e-6 for error in errors.values()), errors


def test_in_16_bits_they_are_as_exact_as_the_type(ranks):
    for errors in ranks.on_mesh(Degrees(2), vocabulary.loss, 64, 200, 16, torch.bfloat16, 0.0, stay=True):
        assert all(error < 2e-2 for error in errors.values()), errors
        assert errors["loss as the chunked one"] < 1e-3


@pytest.mark.parametrize("processes", [2, 3])
def test_parts_of_an_embedding_sum_to_the_whole(ranks, processes):
    assert ranks.on_mesh(Degrees(processes), vocabulary.embedding, 11, stay=True) == [(True, True)] * processes


def test_a_head_of_other_rows_is_refused(ranks):
    assert ranks.on_mesh(Degrees(2), vocabulary.refused, stay=True) == [
        f"the head has 7 rows; those of this process are {first} to {first + 5}" for first in (0, 5)
    ]
