"""Families with recurrent layers against transformers' classes and torch's counter of FLOP.

Transformers trains them in chunks where its kernels are missing, which takes more products than the recurrent form that
`longcat.costs.recurrence` counts. Each family has here, as a formula, exactly how many more the counter sees.
"""

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from longcat.costs.families import ARCHITECTURES, from_config, read_workload
from longcat.costs.families.linear import FAMILIES
from longcat.costs.recurrence import Recurrence
from longcat.errors import ConfigError

LENGTH = 128
COMMON = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 80,
}  # fmt: skip
DELTA = {
    "head_dim": 16, "linear_key_head_dim": 6, "linear_value_head_dim": 10, "linear_num_key_heads": 2,
    "linear_num_value_heads": 16, "linear_conv_kernel_dim": 3,
}  # fmt: skip
EXPERTS = {
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40, "num_experts": 12, "num_experts_per_tok": 2,
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
]  # fmt: skip
IDS = [f"{family}-{index}" for index, (family, _, _) in enumerate(CASES)]


def build(family, fields):
    config = transformers.AutoConfig.for_model(family, **fields)
    torch.manual_seed(0)
    return config, transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )


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
        loss = model(tokens, labels=tokens, use_cache=False).loss
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
    assert set(FAMILIES) == {family for family, _, _ in CASES}


def test_every_architecture_is_transformers_name_of_the_family():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as THEIRS

    for family in FAMILIES:
        assert ARCHITECTURES[THEIRS[family]] == family


ALWAYS_THERE = {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}


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
            assert null or model is None or name in ALWAYS_THERE, error
        else:
            assert model is None or found == sum(p.numel() for p in model.parameters()), name


CONFIGS = Path(__file__).parent / "configs"
PUBLISHED = json.loads((CONFIGS / "expected-linear.json").read_text())


@pytest.mark.parametrize("row", PUBLISHED, ids=[row["file"] for row in PUBLISHED])
def test_published_sizes(row):
    found = read_workload(CONFIGS / row["file"])
    assert found.total_parameters == pytest.approx(row["published_total"], rel=0.01)
    if row["published_activated"] is not None:  # some count the embedding, some do not; names are rounded
        assert found.activated_parameters * 0.95 <= row["published_activated"] <= found.formula_parameters * 1.05


@pytest.mark.parametrize("row", PUBLISHED, ids=[row["file"] for row in PUBLISHED])
def test_parameters_of_published_configs_are_those_of_transformers(row):
    values = json.loads((CONFIGS / row["file"]).read_text())
    values = values.get("text_config", values)
    family = values["model_type"]
    with torch.device("meta"):
        _, model = build(family, {name: value for name, value in values.items() if name not in OTHERS})
    assert read_workload(CONFIGS / row["file"]).total_parameters == sum(p.numel() for p in model.parameters())


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
    with pytest.raises(ConfigError) as caught:
        from_config({"model_type": family} | COMMON | DELTA | change, "my.json")
    assert all(word in str(caught.value) for word in ["my.json", *words])


def test_multi_token_prediction_is_said_to_be_left_out():
    fields = {"model_type": "qwen3_5_text"} | COMMON | DELTA | {"mtp_num_hidden_layers": 1}
    assert from_config(fields).assumptions == ("mtp_num_hidden_layers=1 is not counted",)
    with pytest.raises(
        ConfigError, match="qwen3_5_text has no layers of multi-token prediction that --mtp could count"
    ):
        from_config(fields, mtp=True)
