"""Bits per byte of models whose scores are known."""

import numpy as np
import pytest
import torch

from longcat.corpus.shards import Batch
from longcat.evaluation.perplexity import model_bits, text_bytes


def uniform(tokens):
    return torch.zeros(*tokens.shape, 256)


def test_a_uniform_model_needs_eight_bits_for_a_byte():
    rows = Batch.of_rows(np.random.default_rng(0).integers(0, 256, (5, 33)))
    assert model_bits(uniform, rows, batch=2) == pytest.approx(5 * 32 * 8)
    assert text_bytes(rows, np.ones(256, dtype=np.int32)) == 5 * 32


def test_bits_do_not_depend_on_the_batch_size():
    weights = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    rows = Batch.of_rows(np.random.default_rng(0).integers(0, 256, (7, 17)))
    assert model_bits(lambda t: weights[t], rows, 3) == pytest.approx(model_bits(lambda t: weights[t], rows, 7))


def test_a_model_is_told_of_documents_where_it_learnt_them():
    told = []

    def model(tokens, documents=None):
        told.append(documents)
        return uniform(tokens)

    rows = Batch.of_rows(np.zeros((3, 9), np.int64))
    model_bits(model, rows, 2)
    model_bits(model, rows, 2, mask_documents=True)
    assert told[:2] == [None, None]
    assert [documents.tolist() for documents in told[2:]] == [[[0] * 8] * 2, [[0] * 8]]
