"""Dense families: parameters against transformers' classes, or against matrices by hand where the code is remote."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from longcat.costs.families import from_config, read_workload
from longcat.errors import ConfigError
from tests.costs.families.theirs import build, training_flops

COMMON = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 80,
    "num_key_value_heads": 2,
}  # fmt: skip
WIDE = {**COMMON, "head_dim": 16}
GPTJ = {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 32, "rotary_dim": 4}
WINDOW = {"sliding_window": 64}
MATRIX = {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 24}
GEMMA4 = {**WIDE, **WINDOW, "global_head_dim": 24, "hidden_size_per_layer_input": 0}
CASES = [
    ("gemma", WIDE),
    ("gemma", {**WIDE, "attention_bias": True, "tie_word_embeddings": False}),
    ("gemma2", {**WIDE, **WINDOW}),
    ("gemma3_text", {**WIDE, **WINDOW}),
    ("gemma3_text", {**WIDE, **WINDOW, "sliding_window_pattern": 2}),
    ("gemma4_text", GEMMA4),
    ("gemma4_text", {**GEMMA4, "attention_k_eq_v": True, "num_global_key_value_heads": 1, "attention_bias": True}),
    ("gemma4_text", {**GEMMA4, **MATRIX}),
    ("gemma4_text", {**GEMMA4, "hidden_size_per_layer_input": 20, "vocab_size_per_layer_input": 97}),
    ("gemma4_text", {
        **GEMMA4, "num_hidden_layers": 8, "num_kv_shared_layers": 2, "use_double_wide_mlp": True, "layer_types":
        ["sliding_attention", "full_attention"] * 4, "attention_bias": True, "hidden_size_per_layer_input": 20,
    }),
    ("glm", WIDE),
    ("glm", {**WIDE, "attention_bias": False, "tie_word_embeddings": True}),
    ("glm4", WIDE),
    ("internlm3", WIDE),
    ("phi", COMMON),
    ("phi", {**COMMON, "qk_layernorm": True}),
    ("phi3", COMMON),
    ("phi3", {**COMMON, **WINDOW, "tie_word_embeddings": True}),
    ("stablelm", {**COMMON, "hidden_size": 64}),
    ("stablelm", {**COMMON, "hidden_size": 64, "use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True}),
    ("starcoder2", {**COMMON, **WINDOW}),
    ("starcoder2", {**COMMON, "use_bias": False, "tie_word_embeddings": False}),
    ("gpt_bigcode", {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 32}),
    ("gpt_bigcode", {
        "vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 32, "multi_query": False,
        "n_inner": 100,
    }),
    ("gptj", GPTJ),
    ("codegen", {**GPTJ, "n_inner": 100}),
    ("gpt_neo", {
        "vocab_size": 97, "hidden_size": 48, "num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]],
        "max_position_embeddings": 64,
    }),
    ("cohere", COMMON),
    ("cohere", {**COMMON, "use_qk_norm": True, "attention_bias": True, "tie_word_embeddings": False}),
    ("cohere2", {**COMMON, **WINDOW, "head_dim": 12}),
    ("nemotron", COMMON),
    ("nemotron", {**COMMON, "attention_bias": True, "mlp_bias": True}),
    ("smollm3", COMMON),
    ("smollm3", {**COMMON, **WINDOW, "use_sliding_window": True, "attention_bias": True, "mlp_bias": True}),
    ("seed_oss", WIDE),
    ("seed_oss", {**WIDE, "attention_out_bias": True, "mlp_bias": True, "attention_bias": False}),
    ("exaone4", {**COMMON, **WINDOW}),
    ("exaone4", {**COMMON, "sliding_window": None, "sliding_window_pattern": None,
                 "layer_types": ["full_attention"] * 6}),
    ("olmo", {**COMMON, "attention_bias": True}),
    ("olmo2", COMMON),
    ("olmo3", {**COMMON, **WINDOW}),
    ("granite", {**COMMON, "attention_bias": True, "mlp_bias": True}),
    ("ministral", {**WIDE, **WINDOW}),
    ("ministral3", WIDE),
    ("arcee", {**COMMON, "mlp_bias": True}),
    ("apertus", COMMON),
    ("ernie4_5", WIDE),
    ("ernie4_5", {**WIDE, "use_bias": True}),
    ("hunyuan_v1_dense", {**WIDE, "attention_bias": True}),
    ("hyperclovax", COMMON | {"head_dim": 12}),
    ("hyperclovax", {**COMMON, "head_dim": 12, "use_post_norm": False, "attention_bias": True, "mlp_bias": True}),
    ("jais2", WIDE),
    ("jais2", {**WIDE, "attention_bias": False, "mlp_bias": False}),
    ("cwm", {**WIDE, **WINDOW}),
    ("granite_swa", {**COMMON, **WINDOW, "attention_bias": True}),
    ("vaultgemma", {**WIDE, **WINDOW}),
    ("xglm", {"vocab_size": 97, "d_model": 48, "num_layers": 3, "attention_heads": 4, "ffn_dim": 80}),
    ("persimmon", COMMON),
    ("persimmon", {**COMMON, "qk_layernorm": False}),
    ("helium", {**COMMON, "head_dim": 12, "attention_bias": True}),
    ("nanochat", COMMON),
    ("bitnet", COMMON),
]  # fmt: skip
IDS = [f"{family}-{index}" for index, (family, _) in enumerate(CASES)]


@pytest.mark.parametrize(("family", "fields"), CASES, ids=IDS)
def test_parameters_are_those_of_transformers(family, fields, tmp_path):
    config, model = build(family, fields | {"pad_token_id": 0})
    config.save_pretrained(tmp_path)  # with every default written out, as on the hub
    expected = sum(p.numel() for p in model.parameters())
    assert read_workload(tmp_path).total_parameters == expected
    assert from_config({"model_type": family} | fields).total_parameters == expected


@pytest.mark.parametrize(("family", "fields"), CASES, ids=IDS)
def test_flops_equal_torchs_counter(family, fields):
    """Eager attention multiplies the whole square; no window here is narrower than the sequence."""
    expected = from_config({"model_type": family} | fields).training_flops(32, "full")
    assert training_flops(family, fields | {"pad_token_id": 0}) == pytest.approx(
        32 * expected, rel=0.005
    )  # rotary angles are products too


SMALL = {name: value for name, value in COMMON.items() if name != "num_key_value_heads"} | {"hidden_size": 480}


@pytest.mark.parametrize(
    "family", sorted({family for family, _ in CASES} - {"gpt_neo", "gptj", "codegen", "nemotron", "helium", "xglm"})
)
def test_a_field_that_is_left_out_is_what_transformers_takes(family):
    heads = {"nanochat": 12, "stablelm": 32, "bitnet": 40}.get(family, 32)
    fields = SMALL | {"num_attention_heads": heads, "hidden_size": 32 * 60}
    config = transformers.AutoConfig.for_model(family, **fields | {"pad_token_id": 0})
    if family != "gemma4_text" and getattr(config, "head_dim", 0) is None:  # its class cannot be built without
        config.head_dim = 60
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert from_config({"model_type": family} | fields).total_parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("family", "fields", "windowed"),
    [
        ("gemma2", {}, 3),
        ("gemma3_text", {}, 5),
        ("gemma3_text", {"sliding_window_pattern": 4}, 5),
        ("cohere2", {}, 5),
        ("cohere2", {"sliding_window_pattern": 2}, 3),
        ("olmo3", {}, 5),
        ("cwm", {"num_hidden_layers": 9, "head_dim": 12}, 6),
        ("granite_swa", {"num_hidden_layers": 9}, 6),
        ("vaultgemma", {"num_hidden_layers": 9}, 5),
        ("exaone4", {}, 5),
        ("exaone4", {"layer_types": ["full_attention"] * 5 + ["sliding_attention"]}, 1),
        ("ministral", {"head_dim": 12}, 6),
        ("smollm3", {"use_sliding_window": True}, 1),
        ("smollm3", {}, 0),
        ("gemma4_text", {"num_hidden_layers": 7}, 5),
        ("gemma4_text", {"layer_types": ["sliding_attention"] * 6}, 5),
    ],
)
def test_windows_are_where_transformers_has_them(family, fields, windowed):
    fields = COMMON | {"sliding_window": 16} | fields
    config = transformers.AutoConfig.for_model(family, **fields)
    assert config.layer_types.count("sliding_attention") == windowed
    dims = (
        [config.per_layer_config[layer].head_dim for layer in range(len(config.layer_types))]
        if "4_t" in family
        else None
    )
    found = from_config({"model_type": family} | fields).flops(8192, "causal")["attention_scores"]
    expected = 0.0
    for layer, kind in enumerate(config.layer_types):
        dim = dims[layer] if dims else getattr(config, "head_dim", None) or 12
        expected += 4 * 4 * dim * (16 * (1 - 16 / 16384) if kind == "sliding_attention" else 4096)
    assert found.forward == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fields", "windowed"),
    [
        ({"attention_types": [[["global", "local"], 2]]}, 2),
        ({"attention_types": [[["local"], 3], [["global"], 1]]}, 3),
        ({"attention_layers": ["local", "global", "global", "global"]}, 1),
    ],
)
def test_gpt_neo_has_its_windows_by_name(fields, windowed):
    common = {"vocab_size": 97, "hidden_size": 48, "num_layers": 4, "num_heads": 4, "window_size": 16}
    found = from_config({"model_type": "gpt_neo"} | common | fields).flops(8192, "causal")["attention_scores"]
    keys = windowed * 16 * (1 - 16 / 16384) + (4 - windowed) * 4096
    assert found.forward == pytest.approx(4 * 48 * keys)


def test_a_phi3_window_is_in_every_layer():
    found = from_config({"model_type": "phi3", "sliding_window": 16} | COMMON).flops(8192, "causal")
    assert found["attention_scores"].forward == pytest.approx(6 * 4 * 48 * 16 * (1 - 16 / 16384))


H, L, V, F = 4096, 28, 65024, 13696
CHATGLM = {
    "model_type": "chatglm", "hidden_size": H, "num_layers": L, "padded_vocab_size": V, "ffn_hidden_size": F,
    "num_attention_heads": 32, "kv_channels": 128, "multi_query_attention": True, "multi_query_group_num": 2,
    "add_bias_linear": False, "add_qkv_bias": True, "rmsnorm": True, "post_layer_norm": True,
}  # fmt: skip
NAS = {
    "model_type": "nemotron-nas", "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
    "vocab_size": 1000, "block_configs": [
        {"attention": {"n_heads_in_group": 4, "no_op": False}, "ffn": {"ffn_mult": 2.625, "no_op": False}},
        {"attention": {"n_heads_in_group": None, "no_op": True}, "ffn": {"ffn_mult": 1.0, "no_op": False}},
        {"attention": {"replace_with_linear": True}, "ffn": {"no_op": True}},
        {"attention": {"n_heads_in_group": 8, "window_length": 16}, "ffn": {"replace_with_linear": True}},
    ],
}  # fmt: skip
LLAMA = 4 * 48 * 48 + 3 * 48 * 80 + 2 * 48  # one layer of the plain kind
PLAIN = {name: value for name, value in COMMON.items() if name != "num_key_value_heads"}
ENDS = 2 * 97 * 48 + 48
REMOTE = [  # parameters as the published modules have them
    (CHATGLM, L * (H * (H + 512) + H + 512 + H * H + 3 * H * F + 2 * H) + 2 * V * H + H),
    (CHATGLM | {"add_bias_linear": True, "add_qkv_bias": False},
     L * (H * (H + 512) + H + 512 + H * H + H + 3 * H * F + 2 * F + H + 2 * H) + 2 * V * H + H + V),
    (CHATGLM | {"multi_query_attention": False, "add_qkv_bias": False, "rmsnorm": False},
     L * (4 * H * H + 3 * H * F + 4 * H) + 2 * V * H + 2 * H),
    # the first ChatGLM-6B, as its card's index counts it
    ({"model_type": "chatglm", "hidden_size": 4096, "inner_hidden_size": 16384, "num_attention_heads": 32,
      "num_layers": 28, "vocab_size": 130528, "position_encoding_2d": True}, 6173286400),
    ({"model_type": "exaone", **PLAIN, "num_layers": 6}, 6 * LLAMA + ENDS),
    ({"model_type": "internlm", **PLAIN, "bias": True}, 6 * (LLAMA + 4 * 48) + ENDS),
    ({"model_type": "internlm", **PLAIN, "bias": False}, 6 * LLAMA + ENDS),
    ({"model_type": "internlm2", **COMMON, "bias": False},
     6 * (48 * (48 + 2 * 24) + 48 * 48 + 3 * 48 * 80 + 96) + ENDS),
    ({"model_type": "baichuan", **PLAIN}, 6 * LLAMA + ENDS),
    ({"model_type": "aquila", **PLAIN}, 6 * LLAMA + ENDS),
    ({"model_type": "Yi", **PLAIN}, 6 * LLAMA + ENDS),
    ({"model_type": "xverse", **PLAIN}, 6 * LLAMA + ENDS),
    ({"model_type": "telechat3", **PLAIN}, 6 * LLAMA + ENDS),
    ({"model_type": "orion", **PLAIN}, 6 * (LLAMA + 96) + ENDS + 48),
    ({"model_type": "minicpm", **PLAIN}, 6 * LLAMA + ENDS - 97 * 48),
    ({"model_type": "qwen", **PLAIN, "intermediate_size": 160, "kv_channels": 12, "no_bias": True},
     6 * (LLAMA + 3 * 48) + ENDS),
    ({"model_type": "telechat", "vocab_size": 97, "hidden_size": 48, "n_layer": 6, "n_head": 4,
      "ffn_hidden_size": 80}, 6 * (LLAMA + 2 * 48) + ENDS),
    ({"model_type": "PanguEmbedded", **COMMON, "bias": True},
     6 * (48 * (48 + 2 * 24) + 48 * 48 + 3 * 48 * 80 + 96 + 48 + 2 * 24 + 48) + ENDS),
    (NAS, (2 * 512 * 512 + 2 * 512 * 128 + 512 + 3 * 512 * 1024 + 512)  # 2 x 2.625 x 512 / 3 = 896, in steps of 256
     + (3 * 512 * 512 + 512) + (512 * 512 + 512) + (2 * 512 * 512 + 2 * 512 * 64 + 512 + 512 * 512 + 512)
     + 2 * 1000 * 512 + 512),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "expected"), REMOTE, ids=[f"{f['model_type']}-{i}" for i, (f, _) in enumerate(REMOTE)]
)
def test_remote_code_has_these_matrices(fields, expected):
    found = from_config(fields)
    assert found.total_parameters == expected
    architecture = {key: value for key, value in fields.items() if key != "model_type"}
    assert found.family == fields["model_type"]
    with pytest.raises(ConfigError):
        from_config(architecture)


def test_the_layers_of_nemotron_nas_differ():
    found = from_config(NAS).flops(8192, "causal")
    assert found["attention_scores"].forward == pytest.approx(4 * 512 * (4096 + 16 * (1 - 16 / 16384)))
    assert found["linear_layers"].forward == 2 * 2 * 512 * 512


def test_sparse_attention_of_minicpm_is_named():
    fields = {"model_type": "minicpm", **COMMON}
    found = from_config(fields | {"sparse_config": {"topk": 64, "block_size": 64}})
    assert found.assumptions == ("sparse_config is not counted: queries read all keys, as in short sequences",)
    assert from_config(fields).assumptions == ()


HERE = Path(__file__).parent / "configs"
EXPECTED = json.loads((HERE / "expected-dense.json").read_text())


@pytest.mark.parametrize("row", EXPECTED, ids=lambda row: row["file"])
def test_a_published_model_has_its_published_size(row):
    found = read_workload(HERE / row["file"])
    printed = row["published_total"]
    assert found.total_parameters == pytest.approx(printed, rel=row.get("within", 0.005))
    if activated := row["published_activated"]:
        assert found.activated_parameters * 0.93 <= activated <= found.formula_parameters * 1.05


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "orion", "num_experts": 64}, "num_experts 64, but only orion models without experts"),
        ({"model_type": "helium", "head_dim": 16}, "4 heads of head_dim 16 are not the hidden size 48"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"model_type": "gemma4_text", "use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ({"model_type": "gemma4_text", "num_kv_shared_layers": 6}, "num_kv_shared_layers 6 leaves no layer of 6"),
        ({"model_type": "gemma4_text", "per_layer_config": {"6": {}}}, "per_layer_config has '6'"),
        ({"model_type": "gemma4_text", "num_hidden_layers": 10**9}, "num_hidden_layers must be at most 100000"),
        ({"model_type": "olmo3", "layer_types": ["linear_attention"] * 6}, "layer_types has 'linear_attention'"),
        ({"model_type": "olmo3", "layer_types": ["full_attention"] * 5}, "layer_types has 5 entries for 6 layers"),
        ({"model_type": "gpt_neo", "attention_types": [[["global"], 5]]}, "attention_types must be pairs"),
        ({"model_type": "chatglm", "intermediate_size": None}, "no ffn_hidden_size"),
        ({"model_type": "nemotron-nas"}, "no block_configs"),
        (
            {"model_type": "nemotron-nas", "block_configs": [{"ffn": {"moe": {"num_local_experts": 4}}}] * 6},
            "c: block_configs: 0: ffn: moe is not known in these layers",
        ),
        ({"model_type": "nemotron-nas", "block_configs": [{"attention": {"n_heads_in_group": 3}}] * 6},
         "c: block_configs: 0: attention: n_heads_in_group: 3 heads do not divide the heads of queries, 4"),
        ({"model_type": "nemotron-nas", "block_configs": [{"attention": {"no_op": True}, "ffn": {"ffn_mult": "2"}}] * 6},
         "c: block_configs: 0: ffn: ffn_mult must be a number"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named(fields, words):
    with pytest.raises(ConfigError, match=words):
        from_config(COMMON | fields, "c")


def test_layers_are_counted_without_a_list_of_them():
    for family in ("gemma3_text", "olmo3", "smollm3", "exaone4"):
        assert (
            from_config({"model_type": family, "sliding_window": 16} | COMMON | {"num_hidden_layers": 10**9}).layers
            == 10**9
        )
