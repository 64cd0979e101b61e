"""Weights that lie in another order are the same weights."""

import pytest
import torch

from longcat.config import load_config
from longcat.inference.layout import lay_for_few_rows
from longcat.model import LongcatModel


def made(preset):
    model = LongcatModel(load_config(preset, overrides=["model.initializer_range=0.1"]).model)
    model.initialize(0)
    return model.eval()


@pytest.mark.parametrize("preset", ["tiny", "tiny-2.0"])
def test_numbers_shapes_and_answers_stay(preset):
    before, model = made(preset), made(preset)
    lay_for_few_rows(model)
    for (name, old), (_, new) in zip(before.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(old, new), name
    tokens = torch.arange(2 * 40).view(2, 40)
    with torch.inference_mode():
        torch.testing.assert_close(model.logits(tokens), before.logits(tokens), rtol=1e-4, atol=1e-4)


def test_what_belongs_to_one_input_is_together():
    model = made("tiny")
    table = model.model.embed_tokens.weight.stride()
    lay_for_few_rows(model)
    mixture = model.blocks[0].mlp
    for weight in (
        model.lm_head.weight,
        model.blocks[0].self_attn[1].q_b_proj.weight,
        mixture.router.classifier.weight,
        mixture.experts.gate_up_proj,
        mixture.experts.down_proj,
    ):
        assert weight.stride()[-2:] == (1, weight.shape[-2])
    assert model.model.embed_tokens.weight.stride() == table
