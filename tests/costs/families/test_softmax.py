"""Families of softmax, latent and sparse attention against transformers' classes and torch's counter."""

import json

import pytest
import torch
from transformers.modeling_layers import MtpModel

from longcat.costs.families import deepseek, from_config, mixtures, sparse
from longcat.errors import ConfigError
from tests.costs.families.theirs import build, config_of, left_out_one_by_one, parameters, training_flops

COMMON = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4}
GROUPED = {**COMMON, "num_key_value_heads": 2, "intermediate_size": 80, "head_dim": 16}
MIXED = {**GROUPED, "moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 2}
NUMBERED = {**GROUPED, "moe_intermediate_size": 24, "n_routed_experts": 8, "num_experts_per_tok": 2}
WIDE = {**GROUPED, "num_local_experts": 8, "num_experts_per_tok": 2}
LATENT = {
    **COMMON, "intermediate_size": 80, "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 20,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 10,
}  # fmt: skip
ROUTED = {
    **LATENT, "moe_intermediate_size": 24, "n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 2,
    "n_group": 2, "topk_group": 1,
}  # fmt: skip
INDEXED = {**ROUTED, "index_n_heads": 3, "index_head_dim": 12, "index_topk": 64}
COMPRESSED = {
    **COMMON, "num_hidden_layers": 5, "head_dim": 16, "q_lora_rank": 20, "o_lora_rank": 12, "o_groups": 2,
    "moe_intermediate_size": 24, "n_routed_experts": 8, "num_experts_per_tok": 2, "index_n_heads": 3,
    "index_head_dim": 8, "index_topk": 64, "sliding_window": 256, "qk_rope_head_dim": 4,
}  # fmt: skip
SECOND_SHAPE = {
    "pad_token_id": 0, "swa_num_attention_heads": 6, "swa_num_key_value_heads": 6, "swa_q_lora_rank": 14, "swa_kv_lora_rank": 22,
    "swa_head_dim": 16, "swa_qk_nope_head_dim": 10, "swa_v_head_dim": 8, "head_dim": 20,
    "moe_shared_expert_intermediate_size": 36,
}  # fmt: skip
TWO_KINDS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
DENSE_FIRST = ["dense", "dense", "sparse", "sparse", "sparse"]
CASES = [
    ("gpt_oss", {**WIDE, "sliding_window": 64}),
    ("gpt_oss", {**WIDE, "attention_bias": False, "layer_types": TWO_KINDS, "sliding_window": 64}),
    ("minimax_m2", WIDE),
    ("glm4_moe", {**NUMBERED, "n_shared_experts": 2, "use_qk_norm": True, "attention_bias": True}),
    ("glm4_moe", {**NUMBERED, "first_k_dense_replace": 3}),
    ("mimo_v2_flash", {**NUMBERED, "v_head_dim": 12, "sliding_window": 64}),
    ("mimo_v2_flash", {
        **NUMBERED, "layer_types": TWO_KINDS, "mlp_layer_types": DENSE_FIRST, "attention_bias": True, "v_head_dim": 12,
        "sliding_window": 64,
    }),
    ("step3p5", {
        **NUMBERED, "share_expert_dim": 40, "layer_types": TWO_KINDS, "moe_layers_enum": "3,4", "sliding_window": 64,
        "attention_other_setting": {"num_attention_heads": 6},
    }),
    ("step3p5", {**NUMBERED, "attention_bias": True, "mlp_bias": True, "mlp_layer_types": DENSE_FIRST, "sliding_window": 64}),
    ("step3p5", {
        **NUMBERED, "num_nextn_predict_layers": 2, "layer_types": [*TWO_KINDS, "sliding_attention", "full_attention"],
        "sliding_window": 64,
    }),
    ("llama4_text", {**WIDE, "intermediate_size_mlp": 100, "num_experts_per_tok": 8, "attention_chunk_size": 64}),
    ("llama4_text", {
        **WIDE, "intermediate_size_mlp": 100, "num_experts_per_tok": 8, "interleave_moe_layer_step": 2,
        "attention_bias": True, "tie_word_embeddings": True, "attention_chunk_size": 64,
    }),
    ("llama4_text", {**WIDE, "intermediate_size_mlp": 100, "num_experts_per_tok": 8, "moe_layers": [1, 4]}),
    ("ernie4_5_moe", {**MIXED, "head_dim": 12}),
    ("ernie4_5_moe", {
        **{name: value for name, value in MIXED.items() if name not in ("num_experts", "num_experts_per_tok")},
        "moe_num_experts": 6, "moe_k": 3, "use_bias": True, "moe_layer_interval": 2, "moe_layer_end_index": 3,
        "tie_word_embeddings": False, "moe_num_shared_experts": 1,
    }),
    ("ernie4_5_moe", {**MIXED, "moe_num_shared_experts": 0, "moe_layer_start_index": 3}),
    ("hunyuan_v1_moe", {**GROUPED, "num_experts": 8, "moe_topk": 2}),
    ("hunyuan_v1_moe", {**GROUPED, "num_experts": 8, "moe_topk": [3, 3, 3, 3, 3], "attention_bias": True}),
    ("hy_v3", {**MIXED, "num_shared_experts": 2}),
    ("hy_v3", {**MIXED, "mlp_layer_types": DENSE_FIRST, "attention_bias": True, "mlp_bias": True}),
    ("dots1", {**NUMBERED, "n_shared_experts": 2, "first_k_dense_replace": 1}),
    ("dots1", {**NUMBERED, "n_shared_experts": 1, "attention_bias": True, "max_window_layers": 2}),
    ("olmoe", {**WIDE, "head_dim": 12}),
    ("olmoe", {**WIDE, "head_dim": 12, "attention_bias": True, "num_key_value_heads": None}),
    ("flex_olmo", {**WIDE, "head_dim": 12, "pad_token_id": 0}),
    ("phimoe", {**WIDE, "head_dim": 12}),
    ("phimoe", {**WIDE, "head_dim": 12, "attention_bias": True, "lm_head_bias": True, "sliding_window": 64}),
    ("granitemoe", WIDE),
    ("granitemoeshared", {**WIDE, "shared_intermediate_size": 40, "tie_word_embeddings": True}),
    ("granitemoe_swa", {**WIDE, "shared_intermediate_size": 40, "attention_bias": True, "sliding_window": 64}),
    ("cohere2_moe", {**MIXED, "num_shared_experts": 2}),
    ("cohere2_moe", {
        **MIXED, "first_k_dense_replace": 2, "prefix_dense_intermediate_size": 100, "tie_word_embeddings": False,
        "attention_bias": True, "rms_norm_eps": None,
    }),
    ("afmoe", MIXED),
    ("afmoe", {**MIXED, "num_dense_layers": 2, "num_shared_experts": 1, "attention_bias": True}),
    ("exaone_moe", {**MIXED, "num_shared_experts": 2}),
    ("exaone_moe", {**MIXED, "first_k_dense_replace": 2, "layer_types": TWO_KINDS}),
    ("solar_open", {**NUMBERED, "n_shared_experts": 2, "attention_bias": True}),
    ("mellum", {**MIXED, "layer_types": TWO_KINDS, "mlp_layer_types": DENSE_FIRST}),
    ("laguna", {
        **MIXED, "layer_types": TWO_KINDS, "num_attention_heads_per_layer": [4, 8, 8, 4, 6],
        "mlp_layer_types": DENSE_FIRST, "shared_expert_intermediate_size": 40, "sliding_window": 64,
    }),
    ("laguna", {**MIXED, "gating": "per-element", "attention_bias": True}),
    ("qwen3_vl_moe_text", {**MIXED, "tie_word_embeddings": False, "decoder_sparse_step": 2}),
    ("qwen3_vl_moe_text", {**MIXED, "mlp_only_layers": [0], "attention_bias": True}),
    ("kimi_k2", {**ROUTED, "first_k_dense_replace": 1}),
    ("glm4_moe_lite", ROUTED),
    ("glm4_moe_lite", {**ROUTED, "mlp_layer_types": DENSE_FIRST, "attention_bias": True, "q_lora_rank": None}),
    ("axk1", {**ROUTED, "first_k_dense_replace": 3, "moe_layer_freq": 2}),
    ("mistral4", {**ROUTED, "first_k_dense_replace": 2}),
    ("minicpm3", {**LATENT, "mlp_bias": True, "attention_bias": True}),
    ("minicpm3", {**LATENT, "v_head_dim": None, "q_lora_rank": None, "tie_word_embeddings": False}),
    ("youtu", LATENT),
    ("dbrx", {
        "vocab_size": 97, "d_model": 48, "n_layers": 3, "n_heads": 4, "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 40, "moe_num_experts": 6, "moe_top_k": 3},
    }),
    ("jetmoe", {
        "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_key_value_heads": 4, "kv_channels": 16,
        "intermediate_size": 40, "num_local_experts": 6, "num_experts_per_tok": 2,
    }),
    ("deepseek_v32", {**INDEXED, "first_k_dense_replace": 1}),
    ("deepseek_v32", {**INDEXED, "mlp_layer_types": DENSE_FIRST, "attention_bias": True}),
    ("glm_moe_dsa", INDEXED),
    ("glm_moe_dsa", {**INDEXED, "index_topk_freq": 2, "index_skip_topk_offset": 1, "first_k_dense_replace": 0}),
    ("glm_moe_dsa", {**INDEXED, "index_topk_pattern": "FSSFS"}),
    ("glm_moe_dsa", {**INDEXED, "indexer_types": ["full", "shared", "full", "full", "shared"]}),
    ("hy_v4", {**INDEXED, "pad_token_id": 0}),
    ("hy_v4", {**INDEXED, "pad_token_id": 0, "mlp_layer_types": DENSE_FIRST, "hc_mult": 2, "indexer_types": ["full", *4 * ["shared"]]}),
    ("deepseek_v4", COMPRESSED),
    ("deepseek_v4", {**COMPRESSED, "compress_ratios": [0, 0, 4, 128, 4, 0], "hc_mult": 2}),
    ("deepseek_v4", {
        **COMPRESSED, "compress_rates": {"compressed_sparse_attention": 8, "heavily_compressed_attention": 16},
    }),
    ("axk2", {**INDEXED, "gated_norm_rank": 6}),
    ("axk2", {**INDEXED, "mlp_layer_types": DENSE_FIRST, "attention_bias": True}),
    ("dots3_note_text", {**INDEXED, **SECOND_SHAPE, "num_hidden_layers": 7, "sliding_window_size": 64}),
    ("dots3_note_text", {**INDEXED, **SECOND_SHAPE, "layer_types": TWO_KINDS, "first_k_dense_replace": 2}),
    ("dots3_note_text", {**INDEXED, **SECOND_SHAPE, "use_sliding_window": False, "use_dsa": False}),
    ("minimax_m3_vl_text", {**WIDE, "dense_intermediate_size": 100, "shared_intermediate_size": 40}),
    ("minimax_m3_vl_text", {
        **WIDE, "dense_intermediate_size": 100, "moe_layer_freq": [0, 0, 1, 1, 1],
        "sparse_attention_config": {
            "sparse_attention_freq": [0, 1, 1, 1, 0], "sparse_num_index_heads": 2, "sparse_index_dim": 16,
            "sparse_block_size": 4, "sparse_topk_blocks": 8,
        },
    }),
]  # fmt: skip
IDS = [f"{family}-{index}" for index, (family, _) in enumerate(CASES)]


@pytest.mark.parametrize(("family", "fields"), CASES, ids=IDS)
def test_parameters_are_those_of_transformers(family, fields):
    expected = parameters(family, fields)
    assert from_config({"model_type": family} | fields).total_parameters == expected
    saved = json.loads(
        json.dumps(config_of(family, fields).to_dict(), default=str)
    )  # with every default written out, as on the hub
    assert from_config(saved).total_parameters == expected


@pytest.mark.parametrize(("family", "fields"), CASES, ids=IDS)
def test_flops_equal_torchs_counter(family, fields):
    """Eager attention multiplies the whole square; the angles of rotary embeddings are products too, tiny ones."""
    length = 256 if family == "deepseek_v4" else 32  # one entry may stand for 128 tokens
    found = length * from_config({"model_type": family} | fields).training_flops(length, "full")
    expected = training_flops(family, fields, length)
    assert 0 <= expected - found <= 200 * length


@pytest.mark.parametrize("how", ["missing", "null"])
@pytest.mark.parametrize(("family", "fields"), CASES, ids=IDS)
def test_a_field_that_is_missing_is_counted_as_transformers_does_or_named(family, fields, how):
    left_out_one_by_one(family, fields, how)


def test_every_family_is_checked():
    known = {*mixtures.FAMILIES, *deepseek.FAMILIES, *sparse.FAMILIES} - {
        "deepseek_v2",
        "deepseek_v3",
    }  # among the first families
    others = {"step3p7", "minimax_m3", "minimax_m3_vl"}  # other names of step3p5 and minimax_m3_vl_text
    assert known - others <= {family for family, _ in CASES}


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("deepseek_v3", {**ROUTED, "first_k_dense_replace": 1}),
        ("glm4_moe", NUMBERED),
        ("glm4_moe", {**NUMBERED, "use_qk_norm": True, "n_shared_experts": 2, "attention_bias": True}),
    ],
)
@pytest.mark.parametrize("depths", [1, 2])
def test_multi_token_prediction_has_the_parameters_of_transformers_module(family, fields, depths):
    fields = fields | {"num_nextn_predict_layers": depths}
    with torch.device("meta"):
        main = build(family, fields)[1]
        module = MtpModel(main, depths)
    own = {id(one): one.numel() for one in module.parameters()}
    expected = sum(own.values()) - sum(own.get(id(one), 0) for one in main.parameters())
    values = {"model_type": family} | fields
    found = from_config(values, mtp=True).total_parameters - from_config(values).total_parameters
    assert found == expected


DEEPER = [
    ("deepseek_v3", {**ROUTED, "first_k_dense_replace": 1}),
    ("deepseek_v32", {**INDEXED, "first_k_dense_replace": 1}),
    ("glm_moe_dsa", INDEXED),
    ("glm4_moe_lite", ROUTED),
    ("glm4_moe", NUMBERED),
    ("bailing_moe_v2", {**MIXED, "num_shared_experts": 1, "first_k_dense_replace": 1}),
    ("pangu_ultra_moe", ROUTED),
    ("ernie4_5_moe", {**MIXED, "moe_layer_end_index": 3}),  # its module's layer is dense, as the next one here
    ("mimo", GROUPED),
]


@pytest.mark.parametrize(("family", "fields"), DEEPER, ids=[family for family, _ in DEEPER])
def test_a_depth_costs_a_layer_a_joint_and_a_head(family, fields):
    values = {"model_type": family, "num_nextn_predict_layers": 1} | fields
    counted, deeper = from_config(values, mtp=True), from_config(values | {"num_hidden_layers": 6})
    h, vocabulary = fields["hidden_size"], fields["vocab_size"]
    joint = 2 * h * h
    assert counted.training_flops(512) == pytest.approx(deeper.training_flops(512) + 6 * (joint + h * vocabulary))
    norms = 2 if family == "ernie4_5_moe" else 3
    assert counted.total_parameters == deeper.total_parameters + joint + norms * h


def test_unknown_modules_of_multi_token_prediction_are_refused():
    for family, fields in (("deepseek_v4", COMPRESSED), ("step3p5", NUMBERED), ("minimax_m2", WIDE)):
        with pytest.raises(ConfigError, match=f"{family} has no layers of multi-token prediction that --mtp"):
            from_config({"model_type": family, "num_nextn_predict_layers": 1} | fields, mtp=True)


@pytest.mark.parametrize(("family", "fields"), [("deepseek_v32", INDEXED), ("glm_moe_dsa", INDEXED)])
def test_an_index_reads_all_keys_and_its_attention_the_chosen_ones(family, fields):
    """`INDEXED` chooses 64 keys for each of 4 heads of 20 + 10 dimensions, by 3 heads of 12 and a weight for each."""
    parts = from_config({"model_type": family} | fields).flops(4096, "causal")
    assert parts["attention_scores"].forward == pytest.approx(5 * 2 * 4 * 30 * 64 * (1 - 64 / 8192))
    assert parts["index_scores"].forward == 5 * 2 * 3 * 13 * 2048
    assert parts["index_scores"].backward == parts["indexer_projections"].backward == 0


def test_windows_and_entries_of_compressed_attention():
    """`COMPRESSED` has 4 heads of 16 + 16 dimensions, a window of 256 keys, and at most 64 of 1024 entries."""
    fields = {"model_type": "deepseek_v4"} | COMPRESSED | {"compress_ratios": [4, 128, 0, 0, 0]}
    found = from_config(fields).flops(4096, "causal")["attention_scores"].forward
    window, chosen, entries = 256 * (1 - 256 / 8192), 64 * (1 - 64 / 2048), 16
    assert found == pytest.approx(2 * 4 * 32 * (5 * window + chosen + entries))
