"""Bits per byte of models whose scores are known."""

import numpy as np
import pytest
import torch

from longcat.corpus.shards import Batch
from longcat.evaluation.perplexity import bytes_of_targets, target_bits
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
