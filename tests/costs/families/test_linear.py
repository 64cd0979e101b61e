"""Families with recurrent layers against transformers' classes and torch's counter of FLOP.

Transformers trains them in chunks where its kernels are missing, which takes more products than the recurrent form that
`longcat.costs.recurrence` counts. Each family has here, as a formula, exactly how many more the counter sees.
"""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from longcat.costs.families import ARCHITECTURES, from_config, read_workload
from longcat.costs.families.linear import FAMILIES
from longcat.costs.recurrence import Recurrence
from longcat.errors import ConfigError
from tests.costs.families import theirs

LENGTH = 128
COMMON = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 80,
}  # fmt: skip
DELTA = {
    "head_dim": 16, "linear_key_head_dim": 6, "linear_value_head_dim": 10, "linear_num_key_heads": 2,
    "linear_num_value_heads": 16, "linear_conv_kernel_dim": 3,
}  # fmt: skip
EXPERTS = {
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40, "num_experts": 12, "num_experts_per_tok": 2,
}  # fmt: skip

MLA = {
    **COMMON, "num_hidden_layers": 5, "num_key_value_heads": 8, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12, "v_head_dim": 10, "moe_intermediate_size": 24, "num_experts": 16, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
}  # fmt: skip

PURE = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "state_size": 10, "conv_kernel": 3}
SHARED = {
    "mamba_n_heads": 8, "mamba_d_head": 12, "mamba_n_groups": 4, "mamba_d_state": 10, "mamba_d_conv": 3,
    "mamba_chunk_size": 32,
}  # fmt: skip
GLM = {
    **{name: value for name, value in MLA.items() if name not in ("num_experts", "qk_rope_head_dim")},
    "n_routed_experts": 16, "q_lora_rank": 20, "index_topk": 256, "index_head_dim": 12, "index_n_heads": 3,
    "linear_head_dim": 12, "linear_num_heads": 3, "linear_conv_kernel_dim": 3,
}  # fmt: skip
ZAMBA = {
    **COMMON, "num_hidden_layers": 5, "layers_block_type": ["mamba", "hybrid", "hybrid", "mamba", "hybrid"],
    "mamba_d_state": 10, "mamba_d_conv": 3, "mamba_ngroups": 4, "n_mamba_heads": 8, "chunk_size": 32, "adapter_rank": 7,
}  # fmt: skip
NEMOTRON = {
    "vocab_size": 97, "hidden_size": 48, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 80,
    "ssm_state_size": 10, "mamba_num_heads": 16, "mamba_head_dim": 6, "n_groups": 8, "conv_kernel": 3, "chunk_size": 32,
    "n_routed_experts": 6, "moe_intermediate_size": 24, "moe_shared_expert_intermediate_size": 40,
    "num_experts_per_tok": 2,
}  # fmt: skip


def convolution(channels, kernel):
    """FLOP that the counter adds to one short convolution: the padding; for the gradient of the weights, as if it were full."""
    padded = LENGTH + kernel - 1
    forward = 2 * channels * kernel * (padded - LENGTH)
    weights = 2 * kernel * padded * channels * channels - 2 * channels * kernel * LENGTH
    return forward, forward + weights


def gated_delta(layers, heads, key, value, chunk=64):
    """Products within a chunk: keys x keys, queries x keys, scores x values; its inverse is solved, which is not counted.

    Backward, the solution's two factors are products again; the first chunk's state has no gradient, and the last
    chunk's is not used.
    """
    forward = 2 * chunk * (2 * key + value) * LENGTH
    solved = 2 * chunk * (key + value) * LENGTH
    ends = 4 * 2 * chunk * key * value
    return layers * heads * forward, layers * heads * (2 * forward + solved - ends)


def delta_per_channel(layers, heads, dim, chunk=64):
    """The same with the inverse as two products; the scores are sums of elementwise products, for the decay differs."""
    forward = 2 * chunk * 3 * dim * LENGTH
    return layers * heads * forward, layers * heads * (2 * forward - 4 * 2 * chunk * dim**2)


def lightning(layers, heads, dim, block):
    """Queries x keys and scores x values within a block; the ends lack one and two products of the backward pass."""
    forward = 4 * block * dim * LENGTH
    return layers * heads * forward, layers * heads * (2 * forward - 3 * 2 * block * dim**2)


def state_spaces(layers, heads, dim, state, chunk=32):
    """Scores and scores x values within a chunk, and the states of all chunks from those of all before."""
    forward = 2 * chunk * (state + dim) * LENGTH + 2 * (LENGTH // chunk + 1) ** 2 * state * dim
    return layers * heads * forward, layers * heads * 2 * forward


def mamba(layers, inner, state, kernel):
    """Of Mamba's two products the outer one is elementwise, which is not counted."""
    unseen = -2 * inner * state * LENGTH
    return [*[convolution(inner, kernel)] * layers, (layers * unseen, layers * 2 * unseen)]


def mamba2(layers, heads, dim, state, groups, kernel, chunk=32):
    channels = heads * dim + 2 * groups * state
    return [*[convolution(channels, kernel)] * layers, state_spaces(layers, heads, dim, state, chunk)]


def kimi(layers, heads, dim, kernel):
    return [*[convolution(3 * heads * dim, kernel)] * layers, delta_per_channel(layers, heads, dim)]


def qwen(layers, heads=16, key=6, value=10, key_heads=2, kernel=3):
    return [
        *[convolution(2 * key_heads * key + heads * value, kernel)] * layers,
        gated_delta(layers, heads, key, value),
    ]


CASES = [
    ("qwen3_next", {**COMMON, **DELTA, **EXPERTS}, qwen(3)),
    ("qwen3_next", {**COMMON, **DELTA, **EXPERTS, "num_hidden_layers": 5, "full_attention_interval": 2}, qwen(3)),
    ("qwen3_next", {
        **COMMON, **DELTA, **EXPERTS, "decoder_sparse_step": 2, "attention_bias": True, "tie_word_embeddings": True,
        "layer_types": ["linear_attention", *["full_attention"] * 3], "mlp_only_layers": [3],
    }, qwen(1)),
    ("qwen3_5_text", {**COMMON, **DELTA}, qwen(3)),
    ("qwen3_5_moe_text", {**COMMON, **DELTA, **EXPERTS}, qwen(3)),
    ("kimi_linear", {**MLA, "linear_head_dim": 12, "linear_num_heads": 3, "linear_conv_kernel_dim": 3}, kimi(4, 3, 12, 3)),
    ("kimi_linear", {
        **MLA, "q_lora_rank": 20, "attention_bias": True, "num_shared_experts": 2, "num_experts_per_token": 3,
        "layer_types": ["linear_attention", *["full_attention"] * 4],
        "mlp_layer_types": ["sparse", "sparse", "dense", "sparse", "dense"],
        "linear_attn_config": {"head_dim": 12, "num_heads": 3, "short_conv_kernel_size": 3},
    }, kimi(1, 3, 12, 3)),
    ("kimi_linear", {
        **MLA, "first_k_dense_replace": 2, "linear_attn_config": {
            "head_dim": 12, "num_heads": 3, "short_conv_kernel_size": 3, "kda_layers": [1, 2, 5],
            "full_attn_layers": [3, 4],
        },
    }, kimi(3, 3, 12, 3)),
    ("minimax", {**COMMON, "num_local_experts": 6, "num_experts_per_tok": 2, "block_size": 32}, [lightning(2, 8, 6, 32)]),
    ("minimax", {
        **COMMON, "num_experts": 6, "num_experts_per_tok": 2, "block_size": 64, "head_dim": 20,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"], "tie_word_embeddings": True,
    }, [lightning(3, 8, 20, 64)]),
    ("bailing_hybrid", {
        **MLA, "head_dim": 12, "short_conv_kernel_size": 3, "layer_group_size": 2,
    }, kimi(3, 8, 12, 3)),
    ("nemotron_h", {
        **NEMOTRON, "hybrid_override_pattern": "MEM*-M", "use_bias": True, "mlp_bias": True, "use_conv_bias": False,
    }, mamba2(3, 16, 6, 10, 8, 3)),
    ("nemotron_h", {
        **NEMOTRON, "layers_block_type": ["mamba", "moe", "attention", "mamba"], "moe_latent_size": 20, "head_dim": 20,
        "tie_word_embeddings": True,
    }, mamba2(2, 16, 6, 10, 8, 3)),
    ("nemotron_h", {
        **NEMOTRON, "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"], "moe_latent_size": 20,
        "mlp_bias": True,
    }, mamba2(1, 16, 6, 10, 8, 3)),
    ("mamba", {**PURE}, mamba(3, 96, 10, 3)),
    ("mamba", {**PURE, "time_step_rank": 7, "use_bias": True, "use_conv_bias": False, "tie_word_embeddings": False},
     mamba(3, 96, 10, 3)),
    ("falcon_mamba", {**PURE, "expand": 3}, mamba(3, 144, 10, 3)),
    ("mamba2", {**PURE, "num_heads": 8, "head_dim": 12, "n_groups": 4, "chunk_size": 32}, mamba2(3, 8, 12, 10, 4, 3)),
    ("mamba2", {
        **PURE, "num_heads": 8, "head_dim": 12, "n_groups": 2, "chunk_size": 32, "use_bias": True,
        "use_conv_bias": False, "tie_word_embeddings": True,
    }, mamba2(3, 8, 12, 10, 2, 3)),
    ("jamba", {
        **COMMON, "attn_layer_period": 3, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 0,
        "num_experts": 6, "mamba_d_state": 10, "mamba_d_conv": 3, "mamba_proj_bias": True,
    }, mamba(3, 96, 10, 3)),
    ("jamba", {
        **COMMON, "attn_layer_period": 2, "attn_layer_offset": 0, "num_experts": 1, "mamba_dt_rank": 5,
        "mamba_conv_bias": False, "mamba_expand": 3, "tie_word_embeddings": True,
    }, mamba(2, 144, 16, 4)),
    ("bamba", {
        **COMMON, **SHARED, "attn_layer_indices": [1, 3], "attention_bias": True, "mlp_bias": True,
        "mamba_proj_bias": True,
    }, mamba2(2, 8, 12, 10, 4, 3)),
    ("bamba", {**COMMON, **SHARED, "mamba_d_head": "auto", "mamba_conv_bias": False}, mamba2(4, 8, 12, 10, 4, 3)),
    ("granitemoehybrid", {
        **COMMON, **SHARED, "layer_types": ["mamba", "attention", "mamba", "mamba"], "num_local_experts": 6,
        "num_experts_per_tok": 3, "shared_intermediate_size": 56, "attention_bias": True,
    }, mamba2(3, 8, 12, 10, 4, 3)),
    ("granitemoehybrid", {
        **COMMON, **SHARED, "num_local_experts": 0, "shared_intermediate_size": 56, "tie_word_embeddings": True,
    }, mamba2(4, 8, 12, 10, 4, 3)),
    ("falcon_h1", {
        **COMMON, **SHARED, "mamba_d_ssm": 1024, "mamba_d_head": "auto", "head_dim": 16, "mamba_rms_norm": True,
        "projectors_bias": True, "attention_bias": True,
    }, mamba2(4, 8, 128, 10, 4, 3)),
    ("falcon_h1", {**COMMON, **SHARED, "mamba_d_ssm": None, "mlp_bias": True, "mamba_proj_bias": True},
     mamba2(4, 8, 12, 10, 4, 3)),
    ("olmo_hybrid", {**COMMON, "linear_conv_kernel_dim": 3, "attention_bias": True}, qwen(3, 8, 4, 8, 8)),
    ("olmo_hybrid", {
        **COMMON, "linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_value_head_dim": 10,
        "layer_types": ["full_attention", "linear_attention", "full_attention", "full_attention"], "head_dim": 10,
        "tie_word_embeddings": True,
    }, qwen(1, 8, 9, 10, 4, 4)),
    ("lfm2", {**COMMON, "full_attn_idxs": [1, 3], "conv_bias": True}, [convolution(48, 3)] * 2),
    ("lfm2", {
        **COMMON, "layer_types": ["conv", "conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False,
        "conv_L_cache": 5, "tie_word_embeddings": False,
    }, [convolution(48, 5)] * 3),
    ("lfm2", {**COMMON, "block_ffn_dim_multiplier": 1.3, "block_multiple_of": 7, "head_dim": 10}, []),
    ("lfm2_moe", {
        **COMMON, "layer_types": ["conv", "conv", "full_attention", "conv"], "num_experts": 8, "num_experts_per_tok": 3,
        "moe_intermediate_size": 24, "num_dense_layers": 1, "conv_bias": True, "tie_word_embeddings": False,
    }, [convolution(48, 3)] * 3),
    ("lfm3", {**COMMON, "num_hidden_layers": 6, "head_dim": 10, "attention_bias": True}, [convolution(48, 7)] * 4),
    ("lfm3", {
        **COMMON, "layer_types": ["conv", "full_attention", "sliding_attention", "conv"], "use_sandwich_norm": False,
        "use_attention_gate": False, "conv_bias": True, "tie_word_embeddings": False,
    }, [convolution(48, 7)] * 2),
    ("recurrent_gemma", {**COMMON, "lru_width": 64, "conv1d_width": 3}, [convolution(64, 3)] * 3),
    ("recurrent_gemma", {
        **COMMON, "block_types": ["attention", "recurrent"], "attention_bias": True, "tie_word_embeddings": False,
    }, [convolution(48, 4)] * 2),
    ("rwkv", {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3}, []),
    ("rwkv", {
        "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "attention_hidden_size": 64,
        "intermediate_size": 100, "tie_word_embeddings": True,
    }, []),
    ("glm5_next_text", GLM, kimi(4, 3, 12, 3)),
    ("glm5_next_text", {
        **GLM, "layer_types": ["indexed_attention", "linear_attention", *["full_attention"] * 3], "hc_mult": 2,
        "indexer_types": ["full", "full", "full", "shared", "full"], "index_kpool": 8, "attention_bias": True,
        "mlp_layer_types": ["dense", "sparse", "dense", "sparse", "sparse"], "tie_word_embeddings": True,
        "linear_attn_config": {"head_dim": 10, "num_heads": 2, "short_conv_kernel_size": 2},
    }, kimi(1, 2, 10, 2)),
    ("zamba2", ZAMBA, mamba2(5, 8, 12, 10, 4, 3)),
    ("zamba2", {
        **ZAMBA, "num_mem_blocks": 2, "use_shared_attention_adapter": True, "add_bias_linear": True,
        "intermediate_size": None, "num_key_value_heads": None,
    }, mamba2(5, 8, 12, 10, 4, 3)),
]  # fmt: skip
IDS = [f"{family}-{index}" for index, (family, _, _) in enumerate(CASES)]


def build(family, fields):
    return theirs.build(family, {"pad_token_id": 0} | fields)


def loss_of(model, tokens):
    if isinstance(model, theirs.WithHead):
        return model(tokens, tokens).float().logsumexp(-1).sum()
    return model(tokens, labels=tokens, use_cache=False).loss


@pytest.mark.parametrize(("family", "fields"), [case[:2] for case in CASES], ids=IDS)
def test_parameters_are_those_of_transformers(family, fields, tmp_path):
    config, model = build(family, fields)
    config.save_pretrained(tmp_path)  # with every default written out, as on the hub
    expected = sum(p.numel() for p in model.parameters())
    assert read_workload(tmp_path).total_parameters == expected
    assert from_config({"model_type": family} | fields).total_parameters == expected


@pytest.mark.parametrize(("family", "fields", "extra"), CASES, ids=IDS)
def test_flops_are_torchs_but_for_the_products_within_a_chunk(family, fields, extra):
    """Forward and backward, to the last digit; eager attention multiplies the whole square."""
    _, model = build(family, fields)
    tokens = torch.randint(0, 97, (1, LENGTH))
    with FlopCounterMode(display=False) as forward:
        loss = loss_of(model, tokens)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    parts = from_config({"model_type": family} | fields).flops(LENGTH, "full").values()
    more = [sum(one[side] for one in extra) for side in (0, 1)]
    assert forward.get_total_flops() == LENGTH * sum(part.forward for part in parts) + more[0]
    assert backward.get_total_flops() == LENGTH * sum(part.backward for part in parts) + more[1]


@pytest.mark.parametrize("products", [2, 3])
def test_a_recurrence_is_counted_as_torch_counts_it_token_by_token(products):
    heads, key, value, length = 3, 8, 5, 7
    state = torch.zeros(heads, key, value, requires_grad=True)
    q, k = (torch.randn(length, heads, 1, key, requires_grad=True) for _ in range(2))
    v = torch.randn(length, heads, 1, value, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        now, read = state, []
        for step in range(length):
            new = v[step] - k[step] @ now if products == 3 else v[step]
            now = now + k[step].transpose(1, 2) @ new
            read.append(q[step] @ now)
    with FlopCounterMode(display=False) as backward:
        torch.stack(read).sum().backward()
    found = Recurrence(layers=1, heads=heads, key_dim=key, value_dim=value, products=products)
    for sequence_length in (length, 10**6):
        counted = found.flops(sequence_length, "causal")
        assert (forward.get_total_flops(), backward.get_total_flops()) == (
            length * counted.forward,
            length * counted.backward,
        )
    assert found.width == 0


def test_every_family_is_checked():
    assert set(FAMILIES) - OWN_FAMILIES == {family for family, _, _ in CASES}


def test_every_architecture_is_transformers_name_of_the_family():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as THEIRS

    for family in set(FAMILIES) - OWN_FAMILIES:
        name = THEIRS.get(family, "Glm5NextForConditionalGeneration")  # the one without a model of text alone
        assert ARCHITECTURES[name] == family


NEEDED = {
    "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "layers_block_type",
    "hybrid_override_pattern", "mamba_d_ssm", "layer_types",
}  # fmt: skip


@pytest.mark.parametrize(("family", "fields"), [case[:2] for case in CASES], ids=IDS)
@pytest.mark.parametrize("null", [False, True], ids=["missing", "null"])
def test_a_field_that_is_missing_or_null_is_what_transformers_takes(family, fields, null):
    """Or its name is in the error."""
    for name in fields:
        others = {other: value for other, value in fields.items() if other != name} | ({name: None} if null else {})
        try:
            with torch.device("meta"):
                _, model = build(family, others)
        except Exception:  # whatever transformers makes of it
            model = None
        try:
            found = from_config({"model_type": family} | others).total_parameters
        except ConfigError as error:
            assert name in str(error)
            assert null or model is None or name in NEEDED, error
        else:
            assert model is None or found == sum(p.numel() for p in model.parameters()), name


@pytest.mark.parametrize(("family", "fields"), [case[:2] for case in CASES], ids=IDS)
def test_a_senseless_field_is_an_error_with_its_name_or_of_no_matter(family, fields):
    for name in [*fields, "architectures", "text_config", "num_nextn_predict_layers"]:
        for value in ("x", "", -1, 0, 1.5, True, [], [1], ["x"], {}, {"head_dim": "x"}, 10**15, float("nan")):
            try:
                found = from_config({"model_type": family} | fields | {name: value}, "my.json")
            except ConfigError as error:
                assert "my.json" in str(error)
            else:
                assert found.total_parameters > 0


CONFIGS = Path(__file__).parent / "configs"
PUBLISHED = json.loads((CONFIGS / "expected-linear.json").read_text())
OWN_CODE = {"Kimi-K3.json", "MiniMax-M1.json"}
"""Models whose own code differs from transformers' class of that name, or is not in transformers."""


@pytest.mark.parametrize("row", PUBLISHED, ids=[row["file"] for row in PUBLISHED])
def test_published_sizes(row):
    found = read_workload(CONFIGS / row["file"])
    assert found.total_parameters == pytest.approx(row["published_total"], rel=row.get("within", 0.01))
    if row["published_activated"] is not None:  # some count the embedding, some do not; names are rounded
        assert found.activated_parameters * 0.95 <= row["published_activated"] <= found.formula_parameters * 1.05


@pytest.mark.parametrize("file", [row["file"] for row in PUBLISHED if row["file"] not in OWN_CODE])
def test_parameters_of_published_configs_are_those_of_transformers(file):
    values = json.loads((CONFIGS / file).read_text())
    values = values.get("text_config", values)
    family = values["model_type"]
    with torch.device("meta"):
        _, model = build(family, {name: value for name, value in values.items() if name not in OTHERS})
    assert read_workload(CONFIGS / file).total_parameters == sum(p.numel() for p in model.parameters())


OTHERS = ("model_type", "auto_map", "architectures", "quantization_config")


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("qwen3_next", {"layer_types": ["linear_attention"]}, ["layer_types has 1 entries for 4 layers"]),
        ("qwen3_next", {"layer_types": ["ssm"] * 4}, ["layer_types has 'ssm'", "linear_attention"]),
        ("qwen3_next", {"full_attention_interval": 0}, ["full_attention_interval", "at least 1"]),
        (
            "qwen3_next",
            {"linear_num_value_heads": 3},
            ["linear_num_key_heads 2 does not divide linear_num_value_heads 3"],
        ),
    ],
)
def test_a_wrong_config_is_named(family, change, words):
    fields = COMMON if family == "mamba2" else COMMON | DELTA
    with pytest.raises(ConfigError) as caught:
        from_config({"model_type": family} | fields | change, "my.json")
    assert all(word in str(caught.value) for word in ["my.json", *words])


@pytest.mark.parametrize(
    ("family", "fields", "deeper"),
    [
        ("qwen3_next", {**COMMON, **DELTA, **EXPERTS, "num_nextn_predict_layers": 1}, {"num_hidden_layers": 5}),
        ("qwen3_5_text", {**COMMON, **DELTA, "mtp_num_hidden_layers": 1}, {"num_hidden_layers": 5}),
        (
            "nemotron_h",
            {**NEMOTRON, "hybrid_override_pattern": "MEM*", "num_nextn_predict_layers": 1, "moe_latent_size": 20},
            {"hybrid_override_pattern": "MEM**E"},
        ),
        (
            "nemotron_h",
            {
                **NEMOTRON,
                "hybrid_override_pattern": "M*",
                "num_nextn_predict_layers": 1,
                "mtp_hybrid_override_pattern": "M-",
            },
            {"hybrid_override_pattern": "M*M-"},
        ),
    ],
)
def test_multi_token_prediction_is_one_more_layer_with_a_join(family, fields, deeper):
    """As DeepSeek-V3's: two norms and a matrix in front of a layer with attention, a norm and the head behind it."""
    fields = {"model_type": family} | fields
    if family != "nemotron_h":
        kinds = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
        fields, deeper = fields | {"layer_types": kinds}, deeper | {"layer_types": [*kinds, "full_attention"]}
    counted, more = from_config(fields, mtp=True), from_config(fields | deeper)
    assert "=1 is not counted; --mtp does" in from_config(fields).assumptions[0]
    assert counted.assumptions == ()
    assert counted.total_parameters == more.total_parameters + 2 * 48 * 48 + 3 * 48
    assert counted.training_flops(64) == pytest.approx(more.training_flops(64) + 6 * (2 * 48 * 48 + 97 * 48))
    assert counted.attention_width == more.attention_width


def test_published_sizes_with_multi_token_prediction():
    """Sums of the checkpoints on the hub, which hold the module: 81B and 124B."""
    qwen3_next = {
        "model_type": "qwen3_next", "vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 48,
        "num_attention_heads": 16, "num_nextn_predict_layers": 1,
    }  # fmt: skip
    assert from_config(qwen3_next, mtp=True).total_parameters == pytest.approx(81.3e9, rel=0.001)
    super_120b = read_workload(CONFIGS / "Nemotron-3-Super-120B-A12B.json", mtp=True)
    assert super_120b.total_parameters == pytest.approx(123.6e9, rel=0.005)


def test_multi_token_prediction_that_is_not_known_is_refused():
    fields = {"model_type": "bailing_hybrid"} | MLA | {"num_nextn_predict_layers": 1}
    assert from_config(fields).assumptions == ("num_nextn_predict_layers=1 is not counted",)
    with pytest.raises(
        ConfigError, match="bailing_hybrid has no layers of multi-token prediction that --mtp could count"
    ):
        from_config(fields, mtp=True)
    with pytest.raises(ConfigError, match="no layers of multi-token prediction, but --mtp"):
        from_config({"model_type": "qwen3_5_text"} | COMMON | DELTA, mtp=True)


def test_kimi_k3s_own_parts():
    """Experts in a latent space with a norm, a full gate, gated attention, residuals over blocks of layers."""
    fields = {"model_type": "kimi_linear"} | MLA | {"linear_attn_config": {"head_dim": 12, "num_heads": 3}}
    plain, h, layers, full = from_config(fields), 48, 5, 1
    assert plain.attention_width == full * 8 * (8 + 12 + 10) / 2
    for change, parameters, matrices in (
        (
            {"routed_expert_hidden_size": 20},
            4 * (2 * h * 20 - 16 * 3 * (h - 20) * 24),
            4 * (2 * h * 20 - 2 * 3 * (h - 20) * 24),
        ),
        ({"mla_use_output_gate": True}, full * h * 8 * 10, full * h * 8 * 10),
        (
            {"linear_attn_config": fields["linear_attn_config"] | {"use_full_rank_gate": True}},
            4 * (h * 36 - 12 * (h + 36)),
            4 * (h * 36 - 12 * (h + 36)),
        ),
        ({"attn_res_block_size": 2}, (4 * layers + 2) * h, 0),
    ):
        found = from_config(fields | change)
        assert found.total_parameters - plain.total_parameters == parameters, change
        assert found.activated_parameters - plain.activated_parameters == matrices, change
    latent = from_config(fields | {"routed_expert_hidden_size": 20, "latent_moe_use_norm": True})
    assert latent.total_parameters - from_config(fields | {"routed_expert_hidden_size": 20}).total_parameters == 4 * 20
    assert "residuals" in from_config(fields | {"attn_res_block_size": 2}).assumptions[0]


LING_2_5_1T = {
    "architectures": ["BailingMoeV2_5ForCausalLM"], "model_type": "bailing_hybrid", "hidden_size": 8192,
    "num_hidden_layers": 80, "num_attention_heads": 64, "head_dim": 128, "layer_group_size": 8, "group_norm_size": 8,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_experts": 256, "num_experts_per_tok": 8,
    "num_shared_experts": 1, "first_k_dense_replace": 4, "vocab_size": 157184,
}  # fmt: skip


def test_ling_2_5_has_lightning_attention_under_the_same_name():
    """1T and 63B activated (its model card), 70 of 80 layers linear; Ling 3.0 has the delta rule."""
    found = from_config(LING_2_5_1T)
    assert found.total_parameters == pytest.approx(1e12, rel=0.05)
    assert found.activated_parameters == pytest.approx(63e9, rel=0.03)
    assert found.attention_width == 10 * 64 * (192 + 128) / 2
    assert found.flops(4096, "causal")["recurrence"].forward == 70 * 64 * 2 * 2 * 128 * 128
    unnamed = {name: value for name, value in LING_2_5_1T.items() if name != "architectures"}
    assert from_config(unnamed).total_parameters == found.total_parameters
    delta = from_config(unnamed | {"kda_safe_gate": True})
    assert delta.flops(4096, "causal")["recurrence"].forward == 70 * 64 * 3 * 2 * 128 * 128


OWN_FAMILIES = {"bailing_moe_linear"}
"""Those that are not in transformers."""
RING_FLASH_LINEAR = {
    "architectures": ["BailingMoeLinearV2ForCausalLM"], "model_type": "bailing_moe_linear", "hidden_size": 4096,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    "layer_group_size": 8, "group_norm_size": 4, "intermediate_size": 9216, "moe_intermediate_size": 1024,
    "num_experts": 256, "num_experts_per_tok": 8, "num_shared_experts": 1, "first_k_dense_replace": 1,
    "use_qk_norm": True, "vocab_size": 157184,
}  # fmt: skip


def test_ring_linear_has_lightning_attention_between_grouped_queries():
    """104B in total, 6.1B activated without embedding and head (arXiv 2510.19338, abstract)."""
    found = from_config(RING_FLASH_LINEAR)
    assert found.total_parameters == pytest.approx(104e9, rel=0.005)
    assert found.activated_parameters - 4096 * 157184 == pytest.approx(6.1e9, rel=0.02)
    assert found.attention_width == 4 * 32 * 128
    assert found.flops(4096, "causal")["recurrence"].forward == 28 * 32 * 2 * 2 * 128 * 128
    assert from_config(RING_FLASH_LINEAR | {"num_hidden_layers": 35}).attention_width == 7 * 32 * 128
    with pytest.raises(ConfigError, match="no layer_group_size"):
        from_config(RING_FLASH_LINEAR | {"layer_group_size": None})


def test_minimaxs_own_list_of_layers_is_read():
    fields = {"model_type": "minimax", "num_local_experts": 4} | COMMON
    listed = from_config(fields | {"attn_type_list": [0, 0, 0, 1]})
    named = from_config(fields | {"layer_types": ["linear_attention"] * 3 + ["full_attention"]})
    assert listed.flops(64, "full") == named.flops(64, "full")
    assert listed.total_parameters == named.total_parameters
    shared = from_config(fields | {"shared_intermediate_size": 32})
    assert shared.activated_parameters - from_config(fields).activated_parameters == 4 * (3 * 48 * 32 + 48)
    window = from_config(fields | {"sliding_window": 16}).flops(64, "full")["attention_scores"]
    assert window.forward == from_config(fields).flops(16, "full")["attention_scores"].forward


def zamba2(hidden, layers, hybrid, **fields):
    kinds = ["hybrid" if layer in hybrid else "mamba" for layer in range(layers)]
    return {
        "model_type": "zamba2", "hidden_size": hidden, "layers_block_type": kinds, "vocab_size": 32000,
        "num_attention_heads": 32, "num_mem_blocks": 2, **fields,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("billions", "fields"),
    [
        (2.66, zamba2(2560, 54, (6, 12, 18, 24, 30, 36, 42, 47, 51), n_mamba_heads=80)),
        (7.36, zamba2(
            3584, 81, (6, 11, 17, 23, 29, 35, 41, 47, 53, 59, 65, 71, 77), n_mamba_heads=112, mamba_ngroups=2
        )),
        (7.29, {
            "model_type": "mamba2", "hidden_size": 4096, "num_hidden_layers": 64, "vocab_size": 32768, "num_heads": 128,
        }),
        (7.27, {
            "model_type": "falcon_mamba", "hidden_size": 4096, "num_hidden_layers": 64, "vocab_size": 65024,
            "tie_word_embeddings": False,
        }),
        (398, {
            "model_type": "jamba", "hidden_size": 8192, "num_hidden_layers": 72, "vocab_size": 65536,
            "num_attention_heads": 64, "intermediate_size": 24576,
        }),
        (8.89, {
            "model_type": "nemotron_h", "hidden_size": 4480, "num_attention_heads": 40, "intermediate_size": 15680,
            "mamba_num_heads": 128, "mamba_head_dim": 80, "vocab_size": 131072,
            "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
        }),
    ],
    ids=["Zamba2-2.7B", "Zamba2-7B", "Mamba-Codestral-7B", "falcon-mamba-7b", "Jamba-1.5-Large", "Nemotron-Nano-9B-v2"],
)  # fmt: skip
def test_sizes_of_checkpoints_on_the_hub(billions, fields):
    assert from_config(fields).total_parameters == pytest.approx(billions * 1e9, rel=0.002)


@pytest.mark.parametrize(
    ("file", "depths", "tokens_per_second", "tflops", "within"),
    [
        ("Nemotron-3-Nano-30B-A3B.json", 2, 28672, 807, 0.001),  # Nemotron 3.5 Lightning, the same shape
        ("Nemotron-3-Nano-30B-A3B.json", 0, 39936, 901, 0.013),
        ("Nemotron-3-Super-120B-A12B.json", 2, 9856, 831, 0.006),
        ("Nemotron-3-Super-120B-A12B.json", 2, 10240, 864, 0.006),
        ("Nemotron-3-Super-120B-A12B.json", 2, 7040, 600, 0.006),
        ("Nemotron-3-Super-120B-A12B.json", 2, 7168, 610, 0.006),
        ("Nemotron-3-Ultra-550B-A55B.json", 2, 3552, 1281, 0.006),
        ("Nemotron-3-Ultra-550B-A55B.json", 2, 2528, 923, 0.018),
    ],
)
def test_published_figures_of_megatron_bridge(file, depths, tokens_per_second, tflops, within):
    """Of its performance summary, 8192 tokens, per GPU; recipes with multi-token prediction have two depths.

    Megatron-LM counts a Mamba-2 layer as if it were twice as wide as the model, 7 FLOP for each channel and state, and
    neither the convolution nor the join of multi-token prediction. The printed speeds are rounded by up to a per cent.
    """
    fields = json.loads((CONFIGS / file).read_text()) | {"num_nextn_predict_layers": depths}
    parts = from_config(fields, mtp=bool(depths)).flops(8192, "causal")
    recurrent = ("recurrence", "recurrence_projections", "convolutions")
    others = sum(part.training for name, part in parts.items() if name not in ("router", *recurrent))
    h, state = fields["hidden_size"], fields["ssm_state_size"]
    rows = 4 * h + 2 * fields["n_groups"] * state + fields["mamba_num_heads"]
    layer = 3 * (2 * h * rows + 7 * 2 * h * state + 2 * 2 * h * h)
    layers = fields.get("hybrid_override_pattern", "").count("M") or fields["layers_block_type"].count("mamba")
    counted = others + layers * layer - depths * 6 * 2 * h * h
    assert counted * tokens_per_second == pytest.approx(tflops * 1e12, rel=within)
