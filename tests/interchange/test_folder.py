"""Folders of every model of the family: what is written is read back, in shards, whole or not at all."""

import json
import os
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.config.config_json import from_config_json, to_config_json
from longcat.errors import ConfigError, DataError, StorageError
from longcat.interchange import load_huggingface, save_huggingface
from longcat.interchange.convert import export, import_folder
from longcat.interchange.folder import write_huggingface
from longcat.interchange.state_dict_map import state_dict_map
from longcat.model import LongcatModel

NGRAM = "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}"
SPARSE = "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_init_tokens: 1, index_local_tokens: 3}"
FAMILY = {
    "flash": [],
    "lite": [NGRAM, "model.rope_scaling={factor: 4, original_max_position_embeddings: 32}"],
    "2.0": [NGRAM, SPARSE, "model.mtp_num_layers=3", "model.num_layers=2"],
}


def make(member):
    model = LongcatModel(load_config("smoke", overrides=["model.initializer_range=0.2", *FAMILY[member]]).model)
    model.initialize(0)
    for layer in model.blocks:
        layer.mlp.router.e_score_correction_bias.normal_(generator=torch.Generator().manual_seed(1))
    return model.eval()


def names(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as stream:
            found |= {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("member", FAMILY)
def test_what_is_written_is_read_back(tmp_path, member):
    model = make(member)
    save_huggingface(model, tmp_path)
    again = load_huggingface(tmp_path)
    assert again.config == model.config.model_copy(update={"ngram": again.config.ngram})
    assert again.config.ngram is None or again.config.ngram.rows(512) == model.config.ngram.rows(512)
    ours, theirs = again.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_published_names():
    """A few of Meituan's names and shapes, from the published headers."""
    parts = {part.name: part.shape for part in state_dict_map(load_config("longcat-2.0").model)}
    assert parts["model.layers.37.self_attn.0.indexer.wq_b.weight"] == (32 * 128, 1536)
    assert parts["model.layers.0.self_attn.0.indexer.wk.weight"] == (128, 8192)
    assert parts["model.layers.0.self_attn.0.indexer.weights_proj.weight"] == (32, 8192)
    assert not any(".self_attn.1.indexer" in name for name in parts)
    assert parts["model.oe_embed_tokens15.weight"][1] == 512
    assert parts["model.oe_embed_proj0.weight"] == (8192, 512)
    assert parts["model.mtp.layers.0.eh_proj.weight"] == (8192, 16384)
    assert parts["model.mtp.layers.0.enorm.m.weight"] == (8192,)
    assert parts["model.mtp.layers.0.transformer_layer.mlp.down_proj.weight"] == (8192, 12288)
    assert parts["model.mtp.layers.0.self_attn.indexer.k_norm.weight"] == (128,)
    assert parts["model.mtp.embed_tokens.weight"] == (163840, 8192)
    assert parts["model.mtp.norm.weight"] == (8192,)
    assert parts["model.layers.0.mlp.experts.767.gate_proj.weight"] == (2048, 8192)
    assert "model.layers.0.mlp.experts.768.gate_proj.weight" not in parts
    lite = {part.name: part.shape for part in state_dict_map(load_config("longcat-flash-lite").model)}
    assert lite["model.ngram_embeddings.embedders.11.weight"] == (78 * 131072 + 2 * 11 + 1, 256)
    assert lite["model.ngram_embeddings.post_projs.0.weight"] == (3072, 256)


@pytest.mark.parametrize("preset", ["longcat-flash", "longcat-flash-lite", "longcat-2.0"])
def test_config_json_says_the_whole_model(preset):
    config = load_config(preset).model
    again = from_config_json(json.loads(json.dumps(to_config_json(config))))
    assert again.model_copy(update={"ngram": None}) == config.model_copy(update={"ngram": None})
    assert (again.ngram is None) == (config.ngram is None)


def test_config_json_of_meituan_is_understood():
    values = {
        "vocab_size": 163840, "hidden_size": 8192, "num_layers": 38, "num_attention_heads": 64, "q_lora_rank": 1536,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "ffn_hidden_size": 12288, "expert_ffn_hidden_size": 2048, "n_routed_experts": 768, "zero_expert_num": 128,
        "zero_expert_type": "identity", "moe_topk": 12, "routed_scaling_factor": 9, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 262144, "rope_theta": 1e6, "hidden_act": "silu", "torch_dtype": "bfloat16",
        "rope_scaling": {"type": "deepseek_yarn", "factor": 120, "original_max_position_embeddings": 8192, "mscale": 1, "mscale_all_dim": 1},
        "oe_neighbor_num": 5, "oe_split_num": 4, "oe_vocab_size_ratio": 100.567, "index_n_heads": 32,
        "index_head_dim": 128, "index_topk": 2048, "index_init_tokens": 16, "index_local_tokens": 1024,
        "index_k_norm_type": "rms", "indexer_rope_interleave": True, "cli_factor": 2, "mtp_num_layers": 3,
    }  # fmt: skip
    found, preset = from_config_json(values), load_config("longcat-2.0").model
    assert found.model_copy(update={"ngram": preset.ngram}) == preset
    with pytest.raises(ConfigError, match="cli_factor 4 is not supported, only 2"):
        from_config_json({**values, "cli_factor": 4})


@pytest.mark.parametrize("member", FAMILY)
def test_shards_hold_the_same(tmp_path, member):
    model = make(member)
    save_huggingface(model, tmp_path / "whole")
    export(tmp_path / "whole", tmp_path / "shards", shard_bytes=60_000, routed_only=True)
    files = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 3
    assert names(tmp_path / "shards") == names(tmp_path / "whole")
    sizes = [sum(t.nbytes for t in load_file(path).values()) for path in files]
    biggest = max(t.nbytes for t in load_file(tmp_path / "whole/model.safetensors").values())
    assert all(size <= max(60_000, biggest) for size in sizes)
    index = json.loads((tmp_path / "shards/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(sizes)
    tokens = torch.randint(3, 512, (2, 20))
    with torch.inference_mode():
        assert torch.equal(load_huggingface(tmp_path / "shards")(tokens), model(tokens))


@pytest.mark.parametrize("member", FAMILY)
def test_no_more_than_a_tensor_is_in_memory(tmp_path, member):
    """Each is asked for once, and gone when the next one is."""
    model, last, names = make(member), [], []
    state = model.state_dict()

    def read(part):
        assert not last or last.pop()() is None, f"still there when {part.name} is read"
        tensor = state[part.parameter][part.region].clone()
        last.append(weakref.ref(tensor))
        names.append(part.name)
        return tensor

    write_huggingface(tmp_path, model.config, read, shard_bytes=150_000)
    assert names == [part.name for part in state_dict_map(model.config)]


def test_routed_experts_only_are_read_as_they_are(tmp_path):
    """Meituan's folders have no matrices for zero-computation experts; transformers' have."""
    model = make("flash")
    save_huggingface(model, tmp_path / "routed")
    export(tmp_path / "routed", tmp_path / "all")
    phantom = "model.layers.0.mlp.experts.5.gate_proj.weight"
    assert phantom not in names(tmp_path / "routed")
    assert phantom in names(tmp_path / "all")
    space = Workspace(tmp_path / "workspace")
    imported = [import_folder(tmp_path / kind, space).path / "huggingface" for kind in ("routed", "all")]
    assert names(imported[0]) == names(imported[1]) == names(tmp_path / "routed")
    assert import_folder(tmp_path / "all", space).cached


def test_dtypes(tmp_path):
    model = make("flash")
    save_huggingface(model, tmp_path / "whole")
    export(tmp_path / "whole", tmp_path / "half", dtype="bfloat16")
    weights = load_file(tmp_path / "half/model.safetensors")
    assert weights["lm_head.weight"].dtype == torch.bfloat16
    assert weights["model.layers.0.mlp.router.e_score_correction_bias"].dtype == torch.float32
    imported = import_folder(tmp_path / "half", Workspace(tmp_path / "workspace"))
    kept = load_file(imported.path / "huggingface/model.safetensors")
    assert kept["lm_head.weight"].dtype == torch.bfloat16
    assert load_huggingface(tmp_path / "half").lm_head.weight.dtype == torch.float32
    with pytest.raises(ConfigError, match="float8"):
        export(tmp_path / "whole", tmp_path / "other", dtype="float8")


def test_rubbish_is_refused_with_its_name(tmp_path):
    save_huggingface(make("flash"), tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "model.layers.0.adapter.weight": torch.zeros(2)}, path)
    with pytest.raises(DataError, match=r"model\.layers\.0\.adapter\.weight belong"):
        load_huggingface(tmp_path)
    save_file({**weights, "model.mtp.norm.weight": torch.zeros(64)}, path)
    load_huggingface(tmp_path)  # config.json has no multi-token prediction: left out
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match="cannot read the weights"):
        load_huggingface(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(DataError, match="cannot read the weights|is missing"):
        load_huggingface(tmp_path)


def test_a_damaged_file_says_what_it_should_have(tmp_path):
    save_huggingface(make("flash"), tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for content, message in (
        (whole[:-1000], f"is cut off: it has {len(whole) - 1000:,} bytes, by its header it should have {len(whole):,}"),
        (whole[:header], f"is cut off: it has {header:,} bytes, by its header it should have {len(whole):,}"),
        (whole[:100], f"is cut off: it has 100 bytes, its header alone should end at {header:,}"),
        (whole[:5], "is cut off: it has 5 bytes and not even the length of its header"),
        (b"", "is cut off: it has 0 bytes"),
        (whole + b"more", f"is damaged: it has {len(whole) + 4:,} bytes, by its header it should have {len(whole):,}"),
        (whole[:8] + b"[" + whole[9:], "is damaged: its header cannot be read"),
        (b"\xff" * 100, "is damaged or no safetensors file"),
        (pointer, f"is a pointer of Git LFS ({len(pointer)} bytes), not the weights"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            load_huggingface(tmp_path)
        assert f"cannot read the weights in {tmp_path}: model.safetensors {message}" in str(caught.value)


def test_a_damaged_shard_is_named(tmp_path):
    model = make("flash")
    state = model.state_dict()
    write_huggingface(tmp_path, model.config, lambda t: state[str(t.parameter)][t.region], shard_bytes=100_000)
    path = sorted(tmp_path.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{path.name} is cut off: it has .* by its header it should have"):
        load_huggingface(tmp_path)


def test_export_writes_all_or_nothing(tmp_path, monkeypatch):
    save_huggingface(make("flash"), tmp_path / "whole")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("mine")
    with pytest.raises(StorageError, match="not empty"):
        export(tmp_path / "whole", tmp_path / "taken")

    def full(*_, **__):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("longcat.interchange.writing._write_shard", full)
    with pytest.raises(StorageError, match="No space left"):
        export(tmp_path / "whole", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "whole"]


def test_what_a_killed_export_has_left_goes_with_the_next(tmp_path):
    save_huggingface(make("flash"), tmp_path / "whole")
    left, other = tmp_path / "new/.out.0123456789abcdef.tmp", tmp_path / "new/.out2.0123456789abcdef.tmp"
    for folder in (left, other):
        folder.mkdir(parents=True)
    before = os.umask(0o022)
    try:
        export(tmp_path / "whole", tmp_path / "new/out")
    finally:
        os.umask(before)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"out", other.name}
    assert (tmp_path / "new/out/config.json").stat().st_mode & 0o777 == 0o644  # it is for others


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_read_only_parts_of_a_folder_can_be_imported_and_exported_again(tmp_path, as_ordinary_user, name):
    save_huggingface(make("flash"), tmp_path / "whole")
    (tmp_path / "whole" / name).write_text("{}")
    (tmp_path / "whole" / name).chmod(0o444)

    def copy():
        for _ in range(2):
            export(tmp_path / "whole", tmp_path / "out")
            assert os.access(tmp_path / "out" / name, os.W_OK)
            shutil.rmtree(tmp_path / "out")
        import_folder(tmp_path / "whole", Workspace(tmp_path / "workspace"))

    as_ordinary_user(copy)


def test_tied_embeddings_are_read(tmp_path):
    model = make("flash")
    save_huggingface(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"lm_head\.weight is missing"):
        load_huggingface(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stated | {"tie_word_embeddings": True}))
    assert torch.equal(load_huggingface(tmp_path).lm_head.weight, model.model.embed_tokens.weight)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere/config\.json"):
        load_huggingface(Path(tmp_path / "nowhere"))
