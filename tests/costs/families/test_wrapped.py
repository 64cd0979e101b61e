"""The text model of models that see or hear: its size and its head, against transformers' whole models."""

import itertools

import pytest
import torch
import transformers

from longcat.costs.families import from_config
from longcat.errors import ConfigError

TEXT = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 80, "head_dim": 12, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
ROUTED = {
    "moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
WRAPPED = [
    ("qwen2_vl", {"model_type": "qwen2_vl_text"}),
    ("qwen2_5_vl", {"model_type": "qwen2_5_vl_text"}),
    ("qwen3_vl", {"model_type": "qwen3_vl_text"}),
    ("qwen3_vl_moe", {"model_type": "qwen3_vl_moe_text", **EXPERTS}),
    ("gemma3", {"model_type": "gemma3_text"}),
    ("gemma4", {"model_type": "gemma4_text", "vocab_size_per_layer_input": 97}),
    ("mistral3", {"model_type": "mistral"}),
    ("mistral3", {"model_type": "ministral3"}),
    ("llava", {"model_type": "llama"}),
    ("llava_next", {"model_type": "mistral"}),
    ("llava_onevision", {"model_type": "qwen2"}),
    ("internvl", {"model_type": "qwen2"}),
    ("glm4v", {"model_type": "glm4v_text"}),
    ("glm4v_moe", {"model_type": "glm4v_moe_text", **ROUTED}),
    ("paligemma", {"model_type": "gemma2"}),
    ("cohere2_vision", {"model_type": "cohere2"}),
]  # fmt: skip


def text_parameters(config, build=transformers.AutoModelForImageTextToText.from_config):
    with torch.device("meta"):
        model = build(config)
    head = model.get_output_embeddings()
    parameters = {id(p): p.numel() for part in (model.model.language_model, head) for p in part.parameters()}
    return sum(parameters.values())


@pytest.mark.parametrize(("kind", "text"), WRAPPED, ids=[f"{kind}-{text['model_type']}" for kind, text in WRAPPED])
def test_only_the_text_model_counts_and_its_head_is_transformers(kind, text):
    for outer, inner in itertools.product((None, True, False), repeat=2):
        flags = [{} if flag is None else {"tie_word_embeddings": flag} for flag in (outer, inner)]
        fields = {"text_config": TEXT | text | flags[1], **flags[0]}
        expected = text_parameters(transformers.AutoConfig.for_model(kind, **fields))
        found = from_config({"model_type": kind, "vision_config": {}} | fields)
        assert found.total_parameters == expected, (outer, inner)
        assert found.family == text["model_type"]
        assert f"of {kind} only the text model is counted" in found.assumptions


@pytest.mark.parametrize(
    ("kind", "text"), WRAPPED[:-3], ids=[f"{kind}-{text['model_type']}" for kind, text in WRAPPED[:-3]]
)
def test_a_field_that_is_left_out_is_what_transformers_takes(kind, text):
    sizes = {"vocab_size": 97, "hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 32}
    fields = {"text_config": sizes | {"intermediate_size": 80, "pad_token_id": 0} | text}
    expected = text_parameters(transformers.AutoConfig.for_model(kind, **fields))
    assert from_config({"model_type": kind} | fields).total_parameters == expected


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_older_files_have_the_text_models_fields_on_top(kind):
    for flag in ({}, {"tie_word_embeddings": True}):
        config = transformers.AutoConfig.for_model(kind, **TEXT | flag)
        found = from_config({"model_type": kind, "vision_config": {}} | TEXT | flag)
        assert found.total_parameters == text_parameters(config)
        assert found.assumptions == (f"of {kind} only the text model is counted",)


def test_a_part_that_lacks_the_fields_leaves_those_on_top():
    found = from_config({"model_type": "qwen2_vl", "text_config": {"model_type": "qwen2_vl_text"}} | TEXT)
    assert found.total_parameters == from_config({"model_type": "qwen2_vl"} | TEXT).total_parameters


@pytest.mark.parametrize(
    "name", ["Qwen2_5OmniThinkerForConditionalGeneration", "Qwen3OmniMoeThinkerForConditionalGeneration"]
)
def test_a_thinker_holds_the_text_model_one_level_further_down(name):
    moe = "Moe" in name
    kind = "qwen3_omni_moe" if moe else "qwen2_5_omni"
    text = TEXT | {"model_type": f"{kind}_text"} | (EXPERTS if moe else {})
    thinker = {"model_type": f"{kind}_thinker", "text_config": text, "audio_config": {}, "vision_config": {}}
    config = transformers.AutoConfig.for_model(f"{kind}_thinker", text_config=text)
    expected = text_parameters(config, getattr(transformers, name)._from_config)
    found = from_config({"model_type": kind, "thinker_config": thinker, "talker_config": {}}, "c.json")
    assert found.total_parameters == expected
    assert found.assumptions == (f"of {kind} only the text model is counted",)
    del text["hidden_size"]
    with pytest.raises(ConfigError, match="c.json: thinker_config: text_config: no hidden_size"):
        from_config({"model_type": kind, "thinker_config": thinker}, "c.json")


LATENT = {
    "model_type": "deepseek_v2", "kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12,
    "v_head_dim": 10, **ROUTED,
}  # fmt: skip


@pytest.mark.parametrize(
    ("outer", "part", "text"),
    [
        ("internvl_chat", "llm_config", {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2"}),
        ("internvl_chat", "llm_config", {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}),
        ("deepseek_vl_v2", "language_config", LATENT),
        ("kimi_vl", "text_config", LATENT | {"model_type": "deepseek_v3", "n_group": 1, "topk_group": 1}),
        ("something_new", "text_config", {"architectures": ["Qwen3ForCausalLM"]}),
        (None, "text_config", {"model_type": "llama"}),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_remote_code_builds_the_text_model_of_its_part(outer, part, text, tied):
    text = TEXT | text | {"tie_word_embeddings": tied}
    whole = {"model_type": outer, "architectures": ["SomeChatModel"], part: text, "vision_config": {}}
    alone, inside = from_config(text), from_config(whole)
    assert inside.total_parameters == alone.total_parameters
    assert inside.training_flops(4096) == alone.training_flops(4096)
    assert f"of {outer or ['SomeChatModel']} only the text model is counted" in inside.assumptions


def test_the_flag_of_the_whole_stands_where_the_part_has_none():
    text = TEXT | {"model_type": "llama"}
    whole = {"model_type": "internvl_chat", "llm_config": text, "tie_word_embeddings": True}
    assert from_config(whole).total_parameters == from_config(text | {"tie_word_embeddings": True}).total_parameters


def test_deepseek_ocr_has_no_latent_attention():
    """A decoder of 3B of which 570M are activated (arXiv 2510.18234, section 3.3)."""
    text = {
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "use_mla": False, "vocab_size": 129280,
        "hidden_size": 1280, "num_hidden_layers": 12, "num_attention_heads": 10, "num_key_value_heads": 10,
        "intermediate_size": 6848, "moe_intermediate_size": 896, "n_routed_experts": 64, "n_shared_experts": 2,
        "num_experts_per_tok": 6, "first_k_dense_replace": 1, "kv_lora_rank": None, "q_lora_rank": None,
        "qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "v_head_dim": 0, "topk_group": 1, "n_group": 1,
    }  # fmt: skip
    found = from_config({"model_type": "deepseek_vl_v2", "language_config": text, "hidden_size": 1280})
    assert found.total_parameters == pytest.approx(3e9, rel=0.03)
    assert found.activated_parameters == pytest.approx(570e6, rel=0.01)


def test_gemma_3_4b_relies_on_its_classes_defaults():
    """675M embedding and 3209M other parameters (arXiv 2503.19786, table 1)."""
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    found = from_config({"model_type": "gemma3", "text_config": text | {"model_type": "gemma3_text"}})
    assert found.total_parameters == pytest.approx(3884e6, rel=0.002)
    assert found.embedding_parameters == 0 and found.vocabulary * found.hidden_size == pytest.approx(675e6, rel=0.01)


def test_of_ernies_two_mixtures_the_one_for_text_counts():
    """ERNIE-4.5-VL-28B-A3B: 64 experts of width 1536 for text beside 64 of 512 for images."""
    fields = {
        "vocab_size": 103424, "hidden_size": 2560, "num_hidden_layers": 28, "num_attention_heads": 20,
        "num_key_value_heads": 4, "intermediate_size": 12288, "moe_num_experts": [64, 64], "moe_k": 6,
        "moe_intermediate_size": [1536, 512], "moe_num_shared_experts": 2, "moe_layer_start_index": [1, 1],
        "moe_layer_end_index": [29, 28], "moe_layer_interval": 1, "tie_word_embeddings": True,
    }  # fmt: skip
    found = from_config({"model_type": "ernie4_5_moe_vl"} | fields)
    text = {name: value[0] if isinstance(value, list) else value for name, value in fields.items()}
    alone = from_config({"model_type": "ernie4_5_moe"} | text)
    assert found.total_parameters == alone.total_parameters
    assert found.activated_parameters - 103424 * 2560 == pytest.approx(3e9, rel=0.05)
    assert found.assumptions == (
        "the experts of images are not counted", "of ernie4_5_moe_vl only the text model is counted",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text_config": "text.json"}, "c: text_config must be an object, found str"),
        ({"llm_config": [1]}, "c: llm_config must be an object, found list"),
        ({"text_config": {"model_type": "bert", "hidden_size": 1}}, "c: text_config: model_type 'bert' is not known"),
        ({"text_config": TEXT, "tie_word_embeddings": "no"}, "c: tie_word_embeddings must be true or false"),
        ({"text_config": TEXT | {"tie_word_embeddings": 1}}, "c: tie_word_embeddings must be true or false"),
        ({"text_config": TEXT}, "model_type 'llava' is not known"),
        ({"model_type": None, "text_config": {}}, "c: text_config: model_type None is not known"),
    ],
)
def test_a_wrong_part_is_named(fields, words):
    with pytest.raises(ConfigError, match=words):
        from_config({"model_type": "llava"} | fields, "c")


def test_parts_within_parts_end():
    fields = {"hidden_size": 1}
    for _ in range(5000):
        fields = {"text_config": fields}
    with pytest.raises(ConfigError, match="model_type None is not known"):
        from_config(fields)
