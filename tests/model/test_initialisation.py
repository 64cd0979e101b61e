"""Any part of the initial weights can be drawn alone, and is the same as in the whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.model.initialisation import BLOCK_ROWS, InitialWeights

CONFIG = load_config("smoke", overrides=["model.initializer_range=0.3"]).model


def whole(name, shape, seed=0):
    drawn = torch.empty(shape)
    InitialWeights(CONFIG, seed).fill(name, drawn, shape, [0] * len(shape))
    return drawn


@given(data=st.data())
@settings(max_examples=40)
def test_a_part_is_that_of_the_whole(data):
    length = st.integers(1, 2 * BLOCK_ROWS + 20)
    shape = data.draw(st.one_of(st.tuples(length, st.integers(1, 9)), st.tuples(st.integers(1, 4), length, length)))
    bounds = [sorted((data.draw(st.integers(0, size)), data.draw(st.integers(0, size)))) for size in shape]
    part = torch.full([end - begin for begin, end in bounds], 7.0)
    InitialWeights(CONFIG, 0).fill("a.weight", part, shape, [begin for begin, _ in bounds])
    assert torch.equal(part, whole("a.weight", shape)[tuple(slice(*of) for of in bounds)])


def test_seed_name_matrix_and_block_are_streams_of_their_own():
    shape = (2, 3 * BLOCK_ROWS, 5)
    blocks = [
        block
        for drawn in (whole("a", shape), whole("b", shape), whole("a", shape, seed=1))
        for block in drawn.view(-1, BLOCK_ROWS * 5)
    ]
    assert len({tuple(block.tolist()) for block in blocks}) == 3 * 2 * 3
    correlation = np.corrcoef(torch.stack(blocks).numpy())
    assert np.abs(correlation - np.eye(len(blocks))).max() < 0.25


def test_values_have_the_deviation_asked_for():
    drawn = whole("a.weight", (4000, 50))
    assert drawn.std().item() == pytest.approx(0.3, rel=0.01)
    assert drawn.mean().item() == pytest.approx(0, abs=0.003)
    assert (drawn.abs() < 0.3).float().mean().item() == pytest.approx(0.6827, abs=0.01)


def test_values_are_pinned():
    # a resumed run depends on them: whoever changes them has to raise the STAGE_VERSION of pre-training
    found = whole("lm_head.weight", (BLOCK_ROWS + 1, 2))[[0, BLOCK_ROWS]]
    torch.testing.assert_close(
        found, torch.tensor([[-0.5522797, -0.0056315], [0.2155065, -0.0315968]]), atol=1e-6, rtol=0
    )


def test_norms_begin_at_one_and_biases_at_zero():
    model = LongcatModel(CONFIG)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(7.0)
    model.initialize(0)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert not (tensor == 7).any(), name
        if tensor.dim() == 1:
            assert torch.equal(tensor, torch.full_like(tensor, float("norm" in name))), name
