"""What config.json says is honoured, as transformers honours it, or refused with the reason."""

import contextlib
import subprocess
import sys

import pytest
import torch

from longcat.config.config_json import from_config_json, read_longcat, to_config_json
from longcat.config.config_json_keys import HARMLESS, SUPPORTED
from longcat.errors import ConfigError
from longcat.interchange.folder import load_huggingface
from tests.interchange.reference import change_config, logits_of, opened_by_transformers, reference

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "original_max_position_embeddings": 8}
TOKENS = torch.randint(0, 97, (2, 33), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Four heads' worth of rotary dimensions, so that YaRN's ramp has something to blend."""
    directory = tmp_path_factory.mktemp("flash")
    reference(5, qk_rope_head_dim=16, num_attention_heads=2).save_pretrained(directory)
    return directory


def copied(saved, tmp_path, changes=(), removed=()):
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    change_config(tmp_path, changes, removed)
    return tmp_path


ROTARY = {
    "absent": {},
    "mscale alone": {"mscale": 0.7},
    "mscale_all_dim alone": {"mscale_all_dim": 0.7},
    "both": {"mscale": 0.7, "mscale_all_dim": 1.3},
    "both 1": {"mscale": 1.0, "mscale_all_dim": 1.0},
    "zero": {"mscale": 0.0, "mscale_all_dim": 1.0},
    "all dim zero": {"mscale": 0.7, "mscale_all_dim": 0},
    "null": {"mscale": None, "mscale_all_dim": None, "attention_factor": None, "beta_fast": None, "beta_slow": None},
    "attention_factor": {"attention_factor": 1.25},
    "attention_factor and mscale": {"attention_factor": 0.8, "mscale": 0.7, "mscale_all_dim": 1.3},
    "betas": {"beta_fast": 4.0, "beta_slow": 0.5},
    "betas zero": {"beta_fast": 0, "beta_slow": 0},
    "not truncated": {"truncate": False},
    "truncate null": {"truncate": None},
    "factor 1": {"factor": 1.0},
    "whole numbers": {"factor": 16, "rope_theta": 10000},
    "large original": {"original_max_position_embeddings": 4096, "factor": 120.0},
}


@pytest.mark.parametrize("name", ROTARY)
def test_yarn_is_read_as_transformers_reads_it(saved, tmp_path, name):
    directory = copied(saved, tmp_path, {"rope_parameters": {**YARN, **ROTARY[name]}})
    expected = logits_of(opened_by_transformers(directory), TOKENS)
    plain = logits_of(opened_by_transformers(saved), TOKENS)
    assert (expected - plain).abs().max() > 0.01  # it does something
    assert (load_huggingface(directory)(TOKENS) - expected).abs().max() < 1e-4


PLACES = {
    "older keys": ({"rope_scaling": {k: v for k, v in YARN.items() if k != "rope_theta"}, "rope_theta": 1e4}, ["rope_parameters"]),
    "type": ({"rope_parameters": {**{k: v for k, v in YARN.items() if k != "rope_type"}, "type": "yarn"}}, []),
    "theta above": ({"rope_theta": 500.0}, ["rope_parameters"]),
    "theta in both": ({"rope_theta": 500.0, "rope_parameters": {"rope_type": "default", "rope_theta": 2000.0}}, []),
    "no theta": ({}, ["rope_parameters"]),
    "original above": ({"original_max_position_embeddings": 16, "rope_parameters": YARN}, []),
    "original left out": ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, []),
    "null rope_scaling": ({"rope_scaling": None}, []),
    "both": ({"rope_scaling": YARN}, []),
    "both, theta in the other": (
        {"rope_scaling": {k: v for k, v in YARN.items() if k != "rope_theta"}, "rope_parameters": {"rope_theta": 300.0}},
        [],
    ),
    "default with a factor": ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "factor": 4.0}}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_rotary_keys_are_found_where_transformers_finds_them(saved, tmp_path, name):
    changes, removed = PLACES[name]
    directory = copied(saved, tmp_path, changes, removed)
    expected = logits_of(opened_by_transformers(directory), TOKENS)
    assert (load_huggingface(directory)(TOKENS) - expected).abs().max() < 1e-4


def test_deepseek_yarn_is_read_as_deepseek_writes_it(saved, tmp_path):
    """All or none of the two factors: as YaRN. One: DeepSeek's code takes 1 and 0 for what is missing."""

    def scaling(**keys):
        values = to_config_json(from_config_json(reference(5).config.to_dict()))
        return from_config_json(
            {**values, "rope_parameters": {**YARN, "rope_type": "deepseek_yarn", **keys}}
        ).rope_scaling

    assert scaling().attention_factor is None
    assert scaling(mscale=1, mscale_all_dim=1).attention_factor is None
    growth = 0.1 * torch.log(torch.tensor(16.0)).item()
    assert scaling(mscale_all_dim=1).attention_factor == pytest.approx(1)
    assert scaling(mscale=0.7).attention_factor == pytest.approx(0.7 * growth + 1)


ABSENT = (
    "zero_expert_num", "moe_topk", "routed_scaling_factor", "rms_norm_eps", "max_position_embeddings", "attention_bias",
    "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "ffn_hidden_size",
    "expert_ffn_hidden_size", "n_routed_experts", "initializer_range",
)  # fmt: skip


@pytest.mark.parametrize("name", ABSENT)
def test_a_key_left_out_means_what_transformers_takes(name):
    import transformers

    values = transformers.LongcatFlashConfig().to_dict()
    changed = {**values, name: {True: False, False: True}.get(values[name], values[name] * 2)}
    assert getattr(from_config_json({**changed, "qk_head_dim": None, "head_dim": None}), name) != values[name]
    del values[name]
    assert getattr(from_config_json(values), name) == getattr(transformers.LongcatFlashConfig(), name)


@pytest.mark.parametrize("name", ["q_lora_rank", "moe_topk", "routed_scaling_factor", "v_head_dim"])
def test_null_is_not_a_size(name):
    with pytest.raises(ConfigError, match=f"{name} is null"):
        from_config_json({**published(), name: None})


def test_null_zero_experts_are_none():
    assert from_config_json({**published(), "zero_expert_num": None, "zero_expert_type": None}).zero_expert_num == 0


def published():
    """LongCat-Flash-Lite-Sparse's config.json, as it was published; without model type."""
    return {
        "architectures": ["LongcatCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "vocab_size": 131072,
        "hidden_size": 3072, "ffn_hidden_size": 6144, "expert_ffn_hidden_size": 1024, "num_layers": 14,
        "num_attention_heads": 32, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "qk_nope_head_dim": 128, "mla_scale_q_lora": True, "mla_scale_kv_lora": True, "routed_scaling_factor": 6.0,
        "n_routed_experts": 256, "max_position_embeddings": 983040, "rms_norm_eps": 1e-05, "use_cache": True,
        "bos_token_id": 1, "eos_token_id": 2, "rope_theta": 1000000.0,
        "rope_scaling": {
            "original_max_position_embeddings": 8192, "rope_type": "deepseek_yarn", "factor": 120, "beta_fast": 32,
            "beta_slow": 1, "mscale": 1, "mscale_all_dim": 1,
        },
        "attention_method": "LSA", "zero_expert_num": 128, "zero_expert_type": "identity", "moe_topk": 12, "use_mla": 1,
        "oe_vocab_size_ratio": 78, "oe_neighbor_num": 4, "oe_split_num": 4, "mtp_num_layers": 1, "index_n_heads": 16,
        "index_head_dim": 128, "index_topk": 2048, "index_k_norm_type": "rms", "cli_factor": 2,
        "index_local_tokens": 1024, "index_init_tokens": 16,
    }  # fmt: skip


def test_published_keys_are_read():
    found = read_longcat(published())
    assert found.family == "longcat2"
    assert found.notes == ()
    model = found.model
    assert (model.ngram.vocab_size_ratio, model.sparse_attention.index_n_heads, model.mtp_num_layers) == (78, 16, 1)
    assert (model.rope_scaling.mscale, model.rope_scaling.mscale_all_dim) == (1, 1)
    again = read_longcat(to_config_json(model, "bfloat16"))
    assert (again.model, again.dtype) == (model, "bfloat16")


@pytest.mark.parametrize("scale", ["mla_scale_q_lora", "mla_scale_kv_lora"])
def test_scales_of_latent_attention_are_honoured(scale):
    model = from_config_json({**published(), scale: False})
    assert not getattr(model, scale)
    assert from_config_json(to_config_json(model)) == model


REFUSED = {
    "router_bias": True, "n_shared_experts": 1, "n_group": 4, "topk_group": 2, "linear_method": "FGBKDA",
    "moe_group_size": 4, "grouped_moe_norm_scale": 2, "mla_use_output_gate": True, "attention_method": "GQA",
    "norm_topk_prob": True, "scoring_func": "sigmoid", "topk_method": "group_limited_greedy", "hidden_act": "gelu",
    "zero_expert_type": "drop", "fa_interval": 4, "kda_nope": True, "use_mla": 0, "first_k_dense_replace": 1,
    "moe_layer_freq": 2, "mlp_bias": True, "num_key_value_heads": 8, "qk_head_dim": 128, "head_dim": 100,
    "architectures": "FLASHLocalForCausalLM", "model_type": "llama", "ngram_exclude_sp_token": True,
    "special_token_scope": "0:4,36:55", "ngram_fix_normalize_factor": True, "ignored_token_ids": [3], "embP": 8,
    "cli_factor": 4, "index_k_norm_type": "layer", "indexer_rope_interleave": False, "index_topk_pattern": [1, 2],
    "use_longcat_dsa": False, "use_oe_embedding": False, "mtp_disable_over_tokenizer": False,
    "partial_rotary_factor": 0.5, "sliding_window": 4096, "layer_types": ["linear_attention"],
    "is_encoder_decoder": True, "moe_router_activation_func": "sigmoid", "index_topk": 5, "num_hidden_layers": 30,
    "num_experts_per_tok": 8, "ngram_vocab_size_ratio": 10, "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    "rope_theta": "1e6", "hidden_size": "3072", "num_attention_heads": True, "eos_token_id": 200000,
    "tie_word_embeddings": "no", "quantization_config": "fp8", "text_vocab_size": 5, "logit_softcapping": 30.0,
    "final_logit_scale": 2, "some_new_switch": False, "dtype": 16, "mtp_num_layers": -1,
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_model_does_not_do_is_refused_with_its_name(name):
    with pytest.raises(ConfigError) as caught:
        read_longcat({**published(), name: REFUSED[name]}, "their.json")
    word = {"rope_scaling": "llama3", "num_experts_per_tok": "moe_topk"}.get(name, name)
    message = str(caught.value)
    assert message.startswith("their.json: ")
    assert "architecture" in message if name == "architectures" else word in message
    assert caught.value.exit_code == 2


STRANGE = ([], {}, "x", -1, 0, 1.5, True, None, [1, "x"], {"a": [1]}, 10**30, float("nan"), float("inf"))


def test_nothing_but_a_reason_comes_of_strange_values():
    values = published() | {"rope_scaling": {**published()["rope_scaling"], "attention_factor": 1.0, "truncate": True}}
    names = {*values, *SUPPORTED, *HARMLESS, "num_hidden_layers", "head_dim", "layer_types", "rope_parameters"}
    for name in names:
        for strange in STRANGE:
            with contextlib.suppress(ConfigError):
                read_longcat({**values, name: strange})
    for name in values["rope_scaling"]:
        for strange in STRANGE:
            with contextlib.suppress(ConfigError):
                read_longcat({**values, "rope_scaling": {**values["rope_scaling"], name: strange}})


def test_rotary_keys_of_another_scheme_are_refused():
    values = {**published(), "rope_scaling": None}
    for rope in (
        {"rope_type": "yarn", "factor": 4.0, "short_factor": [1.0]},
        {"full_attention": {"rope_type": "default"}},
        {"rope_type": "yarn", "factor": 4.0, "partial_rotary_factor": 0.5},
        {"rope_type": "yarn", "factor": 0.5, "original_max_position_embeddings": 8},
        {"rope_type": "yarn", "factor": "4", "original_max_position_embeddings": 8},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "attention_factor": -1.0},
    ):
        with pytest.raises(ConfigError):
            read_longcat({**values, "rope_parameters": rope})


@pytest.mark.parametrize("name", sorted({*REFUSED, *SUPPORTED} - {"hidden_size", "num_attention_heads"}))
def test_null_is_as_good_as_left_out(name):
    values = published()
    expected = {key: value for key, value in values.items() if key != name}
    if name in ("oe_vocab_size_ratio", "index_topk"):  # the rest of the group is missing then
        return
    assert from_config_json({**values, name: None}) == from_config_json(expected)


@pytest.mark.parametrize("name", SUPPORTED)
def test_the_value_of_this_model_may_be_written_out(name):
    for value in SUPPORTED[name]:
        assert from_config_json({**published(), name: value}) == from_config_json(published())


def test_harmless_keys_change_nothing():
    known = {
        "bos_token_id", "compression_config", "eos_token_id", "mtp_disable_over_tokenizer", "mtp_num_layers",
        "mtp_replicate_modules", "num_nextn_predict_layers", "quantization", "quantization_config",
        "tie_word_embeddings", "use_longcat_dsa", "use_oe_embedding", "architectures", "model_type", "dtype", "torch_dtype",
    }  # fmt: skip
    others = dict.fromkeys(HARMLESS - known, "anything")
    others |= {
        "_name_or_path": "x",
        "_attn_implementation_autoset": True,
        "auto_map": {"AutoConfig": "a.B"},
        "foo": None,
    }
    assert from_config_json({**published(), **others}) == from_config_json(published())


def test_every_key_that_transformers_writes_is_known():
    """A configuration saved with all its defaults, generation keys included, is read."""
    import transformers

    values = transformers.LongcatFlashConfig().to_dict()
    generation = transformers.GenerationConfig().to_dict()
    kept = transformers.GenerationConfig._get_default_generation_params()
    values |= dict.fromkeys(kept, 1)
    assert from_config_json(values).num_layers == 28
    assert generation


def test_names_of_layers_and_experts():
    values = published()
    for changes in (
        {"num_hidden_layers": 28},
        {"num_hidden_layers": 14},
        {"num_layers": None, "num_hidden_layers": 28},
    ):
        assert from_config_json({**values, **changes}).num_layers == 14
    other = {key: value for key, value in values.items() if key not in ("moe_topk", "n_routed_experts")}
    other |= {
        "num_experts_per_tok": 12,
        "num_local_experts": 256,
        "intermediate_size": 6144,
        "moe_intermediate_size": 1024,
    }
    assert from_config_json(other) == from_config_json(values)
    with pytest.raises(ConfigError, match="num_hidden_layers 27 is not even"):
        from_config_json({**values, "num_layers": None, "num_hidden_layers": 27})


@pytest.mark.parametrize(
    ("architecture", "family"),
    [("LongcatFlashForCausalLM", "longcat_flash"), ("LongcatFlashNgramForCausalLM", "longcat_flash_ngram"),
     ("LongcatCausalLM", "longcat2")],
)  # fmt: skip
def test_the_architecture_names_the_family(architecture, family):
    for changes in ({}, {"model_type": None}):
        assert read_longcat({**published(), "architectures": [architecture], **changes}).family == family


def test_the_end_of_text_is_the_files():
    values = published()
    assert from_config_json({**values, "eos_token_id": 0}).end_of_text == 0
    assert from_config_json({**values, "eos_token_id": [7]}).end_of_text == 7
    several = read_longcat({**values, "eos_token_id": [7, 9]})
    assert several.model.end_of_text == 7
    assert several.notes == ("eos_token_id [7, 9]: only 7 is used",)
    del values["eos_token_id"]
    assert from_config_json(values).end_of_text == 2
    for ids in ({"eos_token_id": 0, "bos_token_id": 0}, {"eos_token_id": 9, "bos_token_id": 4}, {"bos_token_id": 3}):
        model = from_config_json({**values, **ids})
        written = to_config_json(model)
        assert written["bos_token_id"] == ids["bos_token_id"]
        assert from_config_json(written) == model


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id"])
def test_a_token_beyond_the_vocabulary_is_refused(name):
    values = published()
    with pytest.raises(ConfigError, match=f"{name}={values['vocab_size']} is not a token"):
        from_config_json({**values, name: values["vocab_size"]})


def test_reading_needs_no_torch():
    code = (
        "import sys, longcat.config.config_json, longcat.interchange, longcat.model; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
