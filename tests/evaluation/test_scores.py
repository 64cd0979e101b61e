"""Bits per byte of models whose scores are known."""

import numpy as np
import pytest
import torch

from longcat.corpus.shards import Batch
from longcat.evaluation.perplexity import by_document, bytes_of_targets, documents_of, target_bits
from longcat.padding import IGNORE


def uniform(tokens):
    return torch.zeros(*tokens.shape, 256)


def test_a_uniform_model_needs_eight_bits_for_a_byte():
    rows = Batch.of_rows(np.random.default_rng(0).integers(0, 256, (5, 33)))
    assert target_bits(uniform, rows, batch=2) == pytest.approx(np.full((5, 32), 8.0))
    assert bytes_of_targets(rows, np.ones(256, dtype=np.int32)).sum(1).tolist() == [32] * 5


def test_an_ignored_target_costs_nothing_and_has_no_bytes():
    rows = Batch.of_rows(np.random.default_rng(0).integers(0, 256, (2, 5)))
    rows.targets[0, 2] = IGNORE
    expected = np.full((2, 4), 8.0)
    expected[0, 2] = 0
    assert target_bits(uniform, rows, batch=2) == pytest.approx(expected)
    assert bytes_of_targets(rows, np.full(256, 3, np.int32)).tolist() == [[3, 3, 0, 3], [3] * 4]


def test_bits_do_not_depend_on_the_batch_size():
    weights = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    rows = Batch.of_rows(np.random.default_rng(0).integers(0, 256, (7, 17)))
    assert target_bits(lambda t: weights[t], rows, 3) == pytest.approx(target_bits(lambda t: weights[t], rows, 7))


def test_a_model_is_told_of_documents_where_it_learnt_them():
    told = []

    def model(tokens, documents=None):
        told.append(documents)
        return uniform(tokens)

    rows = Batch.of_rows(np.zeros((3, 9), np.int64))
    target_bits(model, rows, 2)
    target_bits(model, rows, 2, mask_documents=True)
    assert told[:2] == [None, None]
    assert [documents.tolist() for documents in told[2:]] == [[[0] * 8] * 2, [[0] * 8]]


def test_sums_by_document():
    """A document that goes on in the next row is another one there, and padding is none."""
    numbers = np.array([[0, 0, 1, 1], [0, 1, 2, -1]])
    rows = Batch(np.zeros((2, 4), np.int64), np.zeros((2, 4), np.int64), numbers)
    documents = documents_of(rows)
    assert documents.tolist() == [[0, 0, 1, 1], [3, 4, 5, -1]]
    values = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    sums, counts = by_document(documents, values, np.ones((2, 4)))
    assert (sums.tolist(), counts.tolist()) == ([3, 7, 5, 6, 7], [2, 2, 1, 1, 1])
    assert by_document(documents[1:, 3:], values[1:, 3:])[0].size == 0
