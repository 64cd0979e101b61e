"""Parameter counts of config.json against transformers' own classes, FLOPs against torch's counter."""

import json

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from longcat.config import load_config
from longcat.costs.families import ARCHITECTURES, FAMILIES, from_config, llama, plain, read_workload
from longcat.costs.workload import longcat_workload
from longcat.errors import ConfigError
from tests.costs.families.theirs import left_out_one_by_one

COMMON = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
GROUPED = {**COMMON, "num_key_value_heads": 2, "intermediate_size": 80}
MLA = {
    **COMMON, "intermediate_size": 80, "num_key_value_heads": 4, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12, "v_head_dim": 10, "moe_intermediate_size": 24, "n_routed_experts": 8, "n_shared_experts": 2,
    "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
}  # fmt: skip
CASES = [
    ("gpt2", {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 32}),
    ("gpt2", {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 32, "n_inner": 100}),
    ("gpt_neox", {**COMMON, "intermediate_size": 100}),
    ("gpt_neox", {**COMMON, "intermediate_size": 100, "attention_bias": False, "tie_word_embeddings": True}),
    ("opt", {**COMMON, "ffn_dim": 100, "max_position_embeddings": 32, "word_embed_proj_dim": 48}),
    ("opt", {**COMMON, "ffn_dim": 100, "max_position_embeddings": 32, "word_embed_proj_dim": 20}),
    ("opt", {**COMMON, "ffn_dim": 100, "max_position_embeddings": 32, "do_layer_norm_before": False, "word_embed_proj_dim": 48}),
    ("bloom", {"vocab_size": 97, "hidden_size": 48, "n_layer": 3, "n_head": 4}),
    ("mpt", {"vocab_size": 97, "d_model": 48, "n_layers": 3, "n_heads": 4, "max_seq_len": 32}),
    ("falcon", {**COMMON}),
    ("falcon", {**COMMON, "multi_query": False, "parallel_attn": False, "bias": True}),
    ("falcon", {**COMMON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    ("llama", GROUPED),
    ("llama", {**GROUPED, "head_dim": 20, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("mistral", {**GROUPED, "sliding_window": 8}),
    ("mistral", {**GROUPED, "sliding_window": None}),
    ("mixtral", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    ("qwen2", {**GROUPED, "tie_word_embeddings": True}),
    ("qwen2_moe", {
        **GROUPED, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40, "num_experts": 6,
        "num_experts_per_tok": 2, "decoder_sparse_step": 2,
    }),
    ("qwen3", {**GROUPED}),
    ("qwen3_moe", {
        **GROUPED, "head_dim": 16, "moe_intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 2,
        "mlp_only_layers": [1],
    }),
    ("deepseek_v2", {**MLA, "q_lora_rank": None}),
    ("deepseek_v2", {**MLA, "q_lora_rank": 20}),
    ("deepseek_v3", {**MLA, "q_lora_rank": 20}),
    ("longcat_flash", {
        "vocab_size": 97, "hidden_size": 48, "num_layers": 2, "num_attention_heads": 4, "ffn_hidden_size": 80,
        "q_lora_rank": 20, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10,
        "expert_ffn_hidden_size": 24, "n_routed_experts": 6, "zero_expert_num": 2, "moe_topk": 3, "head_dim": 8,
    }),
]  # fmt: skip
IDS = [f"{family}-{index}" for index, (family, _) in enumerate(CASES)]


def build(family, fields):
    config = transformers.AutoConfig.for_model(family, **fields)
    torch.manual_seed(0)
    return config, transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )


@pytest.mark.parametrize(("family", "fields"), CASES, ids=IDS)
def test_parameters_are_those_of_transformers(family, fields, tmp_path):
    config, model = build(family, fields)
    config.save_pretrained(tmp_path)  # with every default written out, as on the hub
    expected = sum(p.numel() for p in model.parameters())
    if family == "longcat_flash":  # its class keeps weights for zero-computation experts that nothing reads
        phantoms = config.num_layers * config.zero_expert_num
        expected -= phantoms * 2 * config.expert_ffn_hidden_size * config.hidden_size
    assert read_workload(tmp_path).total_parameters == expected
    assert from_config({"model_type": family} | fields).total_parameters == expected


@pytest.mark.parametrize(("family", "fields"), CASES, ids=IDS)
def test_flops_equal_torchs_counter(family, fields):
    """Eager attention multiplies the whole square."""
    if family == "longcat_flash" or fields.get("sliding_window"):
        pytest.skip("tested on our own model; eager attention does not cut windows out")
    _, model = build(family, fields)
    tokens = torch.randint(0, 97, (1, 32))
    with FlopCounterMode(display=False) as counter:
        model(tokens, labels=tokens, use_cache=False).loss.backward()
    expected = from_config({"model_type": family} | fields).training_flops(32, "full")
    assert counter.get_total_flops() == pytest.approx(32 * expected, rel=0.005)  # rotary angles are products too


@pytest.mark.parametrize("how", ["missing", "null"])
@pytest.mark.parametrize(("family", "fields"), CASES, ids=IDS)
def test_a_field_that_is_missing_is_counted_as_transformers_does_or_named(family, fields, how):
    if family != "longcat_flash":  # read by our own configuration
        left_out_one_by_one(family, fields, how)


def test_every_family_is_checked():
    """Those of the other files have tests of their own."""
    assert {*plain.FAMILIES, *llama.FAMILIES} - {"qwen3_vl_moe_text"} <= {family for family, _ in CASES}


SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 32,
    "intermediate_size": 80,
}
LEFT_OUT = ("mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "deepseek_v2", "deepseek_v3")


@pytest.mark.parametrize("family", LEFT_OUT)
def test_a_field_that_is_left_out_is_what_transformers_takes(family):
    fields = SMALL | {"num_experts_per_tok": 4}
    with torch.device("meta"):
        _, model = build(family, fields)
    found = from_config({"model_type": family} | fields)
    assert found.total_parameters == sum(p.numel() for p in model.parameters())
    if family != "deepseek_v2":  # has no default
        del fields["num_experts_per_tok"]
    config = transformers.AutoConfig.for_model(family, **fields)
    chosen = getattr(config, "num_experts_per_tok", 0)
    assert from_config({"model_type": family} | fields).ffn_experts == chosen


@pytest.mark.parametrize(
    ("family", "fields", "sliding"),
    [
        ("mistral", {}, 6),
        ("mistral", {"sliding_window": None}, 0),
        ("mixtral", {"sliding_window": 16, "max_window_layers": 2}, 6),
        ("qwen2", {"use_sliding_window": True}, 0),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 2}, 4),
        ("qwen2", {"use_sliding_window": False, "max_window_layers": 2}, 0),
        ("qwen2_moe", {"use_sliding_window": True, "max_window_layers": 3}, 2),
        ("qwen3", {"use_sliding_window": True, "layer_types": ["sliding_attention", *5 * ["full_attention"]]}, 1),
        ("qwen3_moe", {"use_sliding_window": True, "max_window_layers": 2}, 6),
    ],
)
def test_windows_are_where_transformers_has_them(family, fields, sliding):
    fields = SMALL | {"sliding_window": 16} | fields if family != "mistral" else SMALL | fields
    if hasattr(config := transformers.AutoConfig.for_model(family, **fields), "layer_types"):
        assert config.layer_types.count("sliding_attention") == sliding
    length, window = 8192, 4096 if family == "mistral" else 16
    found = from_config({"model_type": family} | fields).flops(length, "causal")["attention_scores"]
    keys = sliding * window * (1 - window / (2 * length)) + (6 - sliding) * length / 2
    dim = 128 if family == "qwen3" else 2
    assert found.forward == pytest.approx(4 * 32 * dim * keys)


def test_a_text_model_inside_another():
    text = {name: value for name, value in SMALL.items() if name != "model_type"} | {"model_type": "qwen2"}
    inside = from_config({"model_type": "llava", "text_config": text, "tie_word_embeddings": True, "vision_config": {}})
    alone = from_config(text | {"tie_word_embeddings": True})
    assert inside.total_parameters == alone.total_parameters
    assert inside.assumptions == ("of llava only the text model is counted",)
    with pytest.raises(ConfigError, match="c: text_config: no hidden_size"):
        from_config({"model_type": "llava", "text_config": {"model_type": "llama"}}, "c")


DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61,
    "num_attention_heads": 128, "intermediate_size": 18432,
}  # fmt: skip


def test_deepseeks_multi_token_prediction():
    """671B, and 685B with the module's own copies of embedding and head (README of DeepSeek-V3)."""
    fields = DEEPSEEK_V3 | {"num_nextn_predict_layers": 1}
    without, counted = from_config(fields), from_config(fields, mtp=True)
    assert without.assumptions == ("num_nextn_predict_layers=1 is not counted; --mtp does",)
    assert counted.assumptions == ()
    embedding = 129280 * 7168
    assert counted.total_parameters + 2 * embedding == pytest.approx(685e9, rel=0.001)
    deeper = from_config(fields | {"num_hidden_layers": 62})  # one layer more
    joined = 2 * 7168**2 + embedding
    expected = deeper.training_flops(4096) + 6 * joined
    assert counted.training_flops(4096) == pytest.approx(expected, rel=1e-9)
    assert counted.total_parameters == deeper.total_parameters + 2 * 7168**2 + 3 * 7168
    for other in (fields | {"num_nextn_predict_layers": 0}, LLAMA2_7B):
        with pytest.raises(ConfigError, match="no layers of multi-token prediction"):
            from_config(other, mtp=True)


LLAMA2_7B = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "intermediate_size": 11008,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bert"}, ["'bert' is not known; docs/benchmark.md", "--parameters N"]),
        ({"hidden_size": None}, ["no hidden_size"]),
        ({"hidden_size": 0}, ["hidden_size", "at least 1", "0"]),
        ({"num_hidden_layers": 10**30}, ["num_hidden_layers", "at most 1000000000000"]),
        ({"num_hidden_layers": "many"}, ["num_hidden_layers", "'many'"]),
        ({"num_experts": 2, "num_experts_per_tok": 3}, ["num_experts_per_tok 3", "2 experts"]),
        ({"num_attention_heads": 33}, ["33 heads do not divide the hidden size 4096"]),
        ({"num_key_value_heads": 5}, ["5 heads do not divide the heads of queries, 32"]),
        ({"tie_word_embeddings": "false"}, ["tie_word_embeddings must be true or false", "'false'"]),
        (
            {"num_experts": 4, "num_experts_per_tok": 1, "mlp_only_layers": "0"},
            ["mlp_only_layers must be a list of int"],
        ),
        ({"model_type": "mistral", "layer_types": ["sliding_attention"]}, ["layer_types has 1 entries for 32 layers"]),
        ({"model_type": ["llama"]}, ["['llama'] is not known"]),
        ({"model_type": "mpt", "n_heads": 32, "attn_config": {"attn_type": "grouped_query_attention"}}, ["attn_type"]),
        ({"model_type": "mpt", "n_heads": 32, "attn_config": 3}, ["attn_config must be an object"]),
        ({"model_type": "longcat_flash", "num_hidden_layers": "56"}, ["num_hidden_layers", "'56'"]),
        ({"model_type": "longcat_flash", "index_topk": 5}, ["my.json: index_topk=5 is less than"]),
    ],
)
def test_a_wrong_config_is_named(change, words):
    with pytest.raises(ConfigError) as caught:
        from_config(LLAMA2_7B | change, "my.json")
    assert all(word in str(caught.value) for word in ["my.json", *words])


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is no JSON"):
        read_workload(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"config\.json is no JSON"):
        read_workload(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ConfigError, match="found list"):
        read_workload(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot read .*config\.json: Is a directory"):
        (tmp_path / "folder" / "config.json").mkdir(parents=True)
        read_workload(tmp_path / "folder")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA2_7B), encoding="utf-8-sig")
    assert read_workload(tmp_path).layers == 32


def test_layers_are_counted_without_a_list_of_them():
    """A thousand million of them took all memory."""
    found = from_config(LLAMA2_7B | {"num_hidden_layers": 10**9, "num_experts": 4, "num_experts_per_tok": 1})
    assert found.layers == 10**9


def test_measured_experts_are_of_longcat():
    with pytest.raises(ConfigError, match="llama has no zero-computation experts"):
        from_config(LLAMA2_7B, ffn_experts=2.0)


PLAIN = {name: value for name, value in LLAMA2_7B.items() if name != "model_type"}
NAMES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM", "deepseek_v2": "DeepseekV2ForCausalLM",
}  # fmt: skip


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("model_type", [{}, {"model_type": None}, {"model_type": "named_otherwise"}])
def test_a_family_is_found_by_its_architecture(family, model_type):
    fields = PLAIN | ({"num_experts_per_tok": 2} if family.startswith(("mixtral", "qwen3_moe", "deepseek")) else {})
    found = from_config(fields | {"architectures": [NAMES[family]]} | model_type)
    expected = from_config(fields | {"model_type": family})
    assert (found.family, found.total_parameters) == (family, expected.total_parameters)


def test_every_architecture_is_transformers_name_of_the_family():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as THEIRS

    for family in ({*FAMILIES} & {*THEIRS}) - {"internlm3"}:  # whose class there is llama's
        assert ARCHITECTURES[THEIRS[family]] == family
    assert ARCHITECTURES[THEIRS["longcat_flash"]] == "longcat_flash"


LONGCAT = {
    "vocab_size": 131072, "hidden_size": 3072, "num_layers": 14, "num_attention_heads": 32, "ffn_hidden_size": 6144,
    "expert_ffn_hidden_size": 1024, "n_routed_experts": 256, "zero_expert_num": 128,
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "more", "preset"),
    [
        ("LongcatFlashForCausalLM", {"hidden_size": 6144, "num_layers": 28, "num_attention_heads": 64,
                                     "ffn_hidden_size": 12288, "expert_ffn_hidden_size": 2048, "n_routed_experts": 512,
                                     "zero_expert_num": 256}, "longcat-flash"),
        ("LongcatFlashNgramForCausalLM", {"ngram_vocab_size_ratio": 78, "emb_neighbor_num": 4, "emb_split_num": 4},
         "longcat-flash-lite"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("model_type", [{}, {"model_type": None}])
def test_meituans_own_files_are_counted(architecture, more, preset, model_type):
    """They name the architecture only; the same keys make the preset."""
    found = from_config(LONGCAT | more | {"architectures": [architecture]} | model_type)
    assert found.total_parameters == longcat_workload(load_config(preset).model).total_parameters


def test_longcat_is_read_by_one_reader():
    for change, words in (
        ({"architectures": ["FLASHLocalForCausalLM"]}, "FLASHLocalForCausalLM"),
        ({"architectures": ["FLASHLocalForCausalLM"], "model_type": "longcat_flash"}, "FLASHLocalForCausalLM"),
        ({"model_type": "longcat_flash", "n_shared_experts": 1}, "n_shared_experts 1 is not supported"),
        ({"model_type": "longcat_flash", "linear_method": "FGBKDA"}, "linear_method"),
        ({"model_type": "longcat_flash", "something_new": 1}, "unknown key something_new"),
    ):
        with pytest.raises(ConfigError, match=words):
            from_config(LONGCAT | change, "my.json")
    noted = from_config(LONGCAT | {"model_type": "longcat_flash", "num_nextn_predict_layers": 1}).assumptions
    assert "num_nextn_predict_layers=1 is not counted; mtp_num_layers is" in noted
