"""Our logits are those of transformers' LongcatFlashForCausalLM for the same weights, in both directions."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.artifact import Workspace
from longcat.config.config_json import from_config_json
from longcat.errors import ConfigError, DataError
from longcat.interchange import load_huggingface
from longcat.interchange.convert import export, import_folder
from longcat.model import LongcatModel
from tests.interchange.reference import logits_of, reference

transformers = pytest.importorskip("transformers")


CONFIGURATIONS = [
    {},
    {"zero_expert_num": 0, "moe_topk": 2},
    {"num_layers": 1, "n_routed_experts": 8, "moe_topk": 2, "zero_expert_num": 1},
    {"num_attention_heads": 2, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 8, "rope_theta": 1e4},
    {"attention_bias": True, "num_layers": 3},
    {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        }
    },
    {"hidden_size": 32, "num_attention_heads": 2, "q_lora_rank": 32, "kv_lora_rank": 40, "rms_norm_eps": 1e-3},
]


@pytest.mark.parametrize("changes", CONFIGURATIONS)
def test_logits_equal_transformers(tmp_path, changes):
    theirs = reference(3, **changes)
    theirs.save_pretrained(tmp_path)
    tokens = torch.randint(0, 97, (2, 33))
    ours = load_huggingface(tmp_path)
    assert (ours(tokens) - logits_of(theirs, tokens)).abs().max() < 1e-4


@pytest.mark.parametrize("changes", CONFIGURATIONS)
def test_transformers_opens_what_we_export(tmp_path, changes):
    theirs = reference(4, **changes)
    theirs.save_pretrained(tmp_path / "theirs")
    checkpoint = import_folder(tmp_path / "theirs", Workspace(tmp_path / "workspace"))
    export(checkpoint.path, tmp_path / "ours")
    tokens = torch.randint(0, 97, (2, 17))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert torch.equal(logits_of(again, tokens), logits_of(theirs, tokens))
    assert (load_huggingface(tmp_path / "ours")(tokens) - logits_of(theirs, tokens)).abs().max() < 1e-4


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6), heads=st.integers(1, 4), experts=st.integers(2, 7), zero=st.integers(0, 4),
    layers=st.integers(1, 2), data=st.data(),
)  # fmt: skip
def test_logits_equal_for_random_shapes(tmp_path_factory, seed, heads, experts, zero, layers, data):
    directory = tmp_path_factory.mktemp("model")
    theirs = reference(
        seed, num_attention_heads=heads, n_routed_experts=experts, zero_expert_num=zero, num_layers=layers,
        moe_topk=data.draw(st.integers(2, experts + zero)),  # transformers fails on top-1
    )  # fmt: skip
    theirs.save_pretrained(directory)
    tokens = torch.randint(0, 97, (1, 20))
    assert (load_huggingface(directory)(tokens) - logits_of(theirs, tokens)).abs().max() < 1e-4


def test_missing_and_misshapen_weights_are_named(tmp_path):
    theirs = reference(0)
    theirs.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "ffn_hidden_size": 57}))
    with pytest.raises(DataError, match=r"gate_proj\.weight has shape"):
        load_huggingface(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**values, "num_layers": 3}))
    with pytest.raises(DataError, match=r"model\.layers\.2"):
        load_huggingface(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="cannot read the weights"):
        load_huggingface(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_huggingface(tmp_path)


def test_unsupported_configurations_are_refused():
    values = reference(0).config.to_dict()
    with pytest.raises(ConfigError, match="longrope"):
        from_config_json({**values, "rope_parameters": {"rope_type": "longrope", "factor": 4.0}})
    with pytest.raises(ConfigError, match="without factor"):
        from_config_json({**values, "rope_parameters": {"rope_type": "yarn"}})
    with pytest.raises(ConfigError, match=r"config\.json: .*moe_topk=99 exceeds"):
        from_config_json({**values, "moe_topk": 99})
    with pytest.raises(ConfigError, match="hidden_act"):
        from_config_json({**values, "hidden_act": "gelu"})
    del values["hidden_size"]
    with pytest.raises(ConfigError, match="missing hidden_size"):
        from_config_json(values)


def test_initial_weights_depend_on_seed_and_name_only():
    config = from_config_json(reference(0).config.to_dict())
    one, two, other = (LongcatModel(config) for _ in range(3))
    one.initialize(1), two.initialize(1), other.initialize(2)
    for (name, a), b, c in zip(
        one.state_dict().items(), two.state_dict().values(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
        assert "proj" not in name or not torch.equal(a, c), name
