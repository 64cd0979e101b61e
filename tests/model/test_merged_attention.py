"""Attention with weights that are multiplied beforehand gives what it gives without."""

import pytest
import torch

from longcat.config import load_config
from longcat.inference.layout import lay_for_few_rows
from longcat.model import LongcatModel
from longcat.model.merged_attention import is_worth_merging

YARN = "model.rope_scaling={factor: 4.0, original_max_position_embeddings: 32, mscale: 1.0, mscale_all_dim: 0.7}"


def made(preset, *overrides):
    model = LongcatModel(load_config(preset, overrides=["model.initializer_range=0.1", *overrides]).model).eval()
    model.initialize(0)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "layernorm" in name or name.endswith("bias"):
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=draw)
    return model


def decoded(model, rows, steps):
    """Return the logits after each of some steps of rows of unequal length."""
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    padding = torch.arange(longest) >= torch.tensor([len(row) for row in rows])[:, None]
    with torch.inference_mode():
        cache = model.new_cache()
        model.states(tokens, cache=cache, padding=padding)
        cache = cache.select(range(len(rows)), [len(row) for row in rows])
        return [model.next_logits(torch.full((len(rows), 1), 7 + step), cache) for step in range(steps)]


@pytest.mark.parametrize("overrides", [(), ("model.attention_bias=true",), (YARN,), ("model.mla_scale_q_lora=false",)])
@pytest.mark.parametrize("rows", [[[5, 6, 7]], [[5, 6, 7], [8], [9] * 20]])
def test_steps_are_those_of_the_weights_themselves(overrides, rows):
    plain, merged = made("tiny", *overrides), made("tiny", *overrides)
    lay_for_few_rows(merged)
    assert all(attention.merged is not None for block in merged.blocks for attention in block.self_attn)
    for found, expected in zip(decoded(merged, rows, 4), decoded(plain, rows, 4), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [("tiny-2.0", ()), ("tiny", ("model.kv_lora_rank=96",))],
    ids=["chosen keys", "latents much wider than heads"],
)
def test_what_gains_nothing_is_not_merged(preset, overrides):
    model = made(preset, *overrides)
    lay_for_few_rows(model)
    attentions = [attention for block in model.blocks for attention in block.self_attn]
    assert not any(is_worth_merging(attention) or attention.merged for attention in attentions)
