"""Models of which only sizes are known, against the same by their config.json."""

import pytest

from longcat.costs.decoder import sized_workload
from longcat.costs.families import from_config
from longcat.errors import ConfigError

QWEN3_235B = {
    "model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 4096, "num_hidden_layers": 94, "head_dim": 128,
    "num_attention_heads": 64, "num_key_value_heads": 4, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    "num_experts": 128, "num_experts_per_tok": 8,
}  # fmt: skip
GPT_OSS_20B = {
    "model_type": "gpt_oss", "vocab_size": 201088, "hidden_size": 2880, "num_hidden_layers": 24, "head_dim": 64,
    "num_attention_heads": 64, "num_key_value_heads": 8, "intermediate_size": 2880, "num_local_experts": 32,
    "num_experts_per_tok": 4, "sliding_window": None,
}  # fmt: skip


@pytest.mark.parametrize("length", [2048, 32768])
@pytest.mark.parametrize(("fields", "width"), [(QWEN3_235B, 64 * 128), (GPT_OSS_20B, 64 * 64)])
def test_sizes_cost_what_the_config_costs(fields, width, length):
    whole = from_config(fields | ({"layer_types": ["full_attention"] * 24} if width == 4096 else {}))
    sized = sized_workload(
        whole.formula_parameters,
        layers=whole.layers,
        hidden_size=whole.hidden_size,
        attention_width=width,
        vocabulary=whole.vocabulary,
        total_parameters=whole.total_parameters,
    )
    assert sized.mixture and sized.total_parameters == whole.total_parameters
    assert sized.attention_width == whole.attention_width == whole.layers * width
    for scores in ("causal", "full"):
        assert sized.training_flops(length, scores) == pytest.approx(whole.training_flops(length, scores), rel=0.005)


def test_the_attention_is_as_wide_as_the_model_where_nothing_is_said():
    plain = sized_workload(7e9, layers=32, hidden_size=4096)
    assert plain.attention_width == sized_workload(7e9, layers=32, attention_width=4096).attention_width == 32 * 4096


def test_a_window_limits_what_is_read():
    sized = sized_workload(7e9, layers=32, hidden_size=4096, window=16)
    assert sized.flops(8192, "full")["attention_scores"].forward == 4 * 32 * 4096 * 16


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"attention_width": 4096}, "needs the number of layers"),
        ({"window": 16}, "needs the number of layers"),
        ({"total_parameters": 6e9}, "fewer than 7e"),
        ({"hidden_size": 10**6, "vocabulary": 10**6}, "fewer than the embedding"),
    ],
)
def test_sizes_that_contradict_are_refused(sizes, words):
    with pytest.raises(ConfigError, match=words):
        sized_workload(7e9, **sizes)
