"""Checkpoints keep what they hold: each tensor's type, multi-token prediction, eight-bit weights made whole, all by content."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.errors import DataError
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.interchange.convert import export, import_folder
from longcat.interchange.folder import load_huggingface, save_huggingface
from longcat.interchange.quantised import dequantise
from longcat.model.transformer import LongcatModel
from tests.interchange.reference import change_config, logits_of, opened_by_transformers, reference

NGRAM = "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}"
SPARSE = "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_init_tokens: 1, index_local_tokens: 3}"
FAMILY = {"flash": [], "lite": [NGRAM], "2.0": [NGRAM, SPARSE]}
WEIGHTS = "model.safetensors"


def make(*overrides):
    model = LongcatModel(load_config("smoke", overrides=["model.initializer_range=0.2", *overrides]).model)
    model.initialize(0)
    for layer in model.blocks:
        layer.mlp.router.e_score_correction_bias.normal_(generator=torch.Generator().manual_seed(1))
    return model.eval()


def written(directory, *overrides, half=True):
    """A folder in bf16 with routers in fp32, as Meituan stores them."""
    save_huggingface(make(*overrides), directory)
    if half:
        weights = load_file(directory / WEIGHTS)
        halved = {name: value if ".router." in name else value.bfloat16() for name, value in weights.items()}
        save_file(halved, directory / WEIGHTS)
        change_config(directory, {"dtype": "bfloat16"})
    return directory


def stored(directory):
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype, name
        assert torch.equal(value.view(torch.uint8), other[name].view(torch.uint8)), name


def imported(directory, tmp_path):
    return import_folder(directory, Workspace(tmp_path / "workspace"))


@pytest.mark.parametrize("member", FAMILY)
def test_the_type_of_each_tensor_is_kept(tmp_path, member):
    source = written(tmp_path / "source", *FAMILY[member])
    checkpoint = imported(source, tmp_path)
    folder = CheckpointFolder(checkpoint.path).huggingface
    same(stored(source), stored(folder))
    assert checkpoint.facts.notes == ()
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    export(checkpoint.path, tmp_path / "out", routed_only=True)
    same(stored(source), stored(tmp_path / "out"))
    tokens = torch.randint(3, 512, (2, 20))
    assert torch.equal(load_huggingface(source)(tokens), load_huggingface(tmp_path / "out")(tokens))


def test_routers_stay_fp32_whatever_the_rest_becomes(tmp_path):
    source = written(tmp_path / "source", half=False)
    for dtype in ("bfloat16", "float16"):
        export(source, tmp_path / dtype, dtype=dtype)
        for name, value in stored(tmp_path / dtype).items():
            assert value.dtype == (torch.float32 if ".router." in name else getattr(torch, dtype)), name
            if ".router." in name:
                assert torch.equal(value, stored(source)[name])
    router = load_huggingface(tmp_path / "bfloat16", torch.bfloat16).blocks[0].mlp.router
    assert {value.dtype for value in router.state_dict().values()} == {torch.float32}


def test_a_bf16_export_is_opened_by_transformers(tmp_path):
    reference(1).save_pretrained(tmp_path / "theirs")
    export(tmp_path / "theirs", tmp_path / "out", dtype="bfloat16")
    tokens = torch.randint(0, 97, (2, 17))
    theirs = opened_by_transformers(tmp_path / "out").float()
    theirs.load_state_dict(load_huggingface_names(tmp_path / "out", theirs), strict=False)
    assert (load_huggingface(tmp_path / "out")(tokens) - logits_of(theirs, tokens)).abs().max() < 1e-4


def load_huggingface_names(directory, model):
    """The routers in fp32, as they are stored: transformers keeps them so in fp16 only."""
    return {name: value for name, value in load_file(directory / WEIGHTS).items() if ".router." in name}


@pytest.mark.parametrize("member", FAMILY)
def test_multi_token_prediction_that_config_json_does_not_name_is_kept(tmp_path, member):
    source = written(tmp_path / "source", *FAMILY[member], "model.mtp_num_layers=1")
    change_config(source, removed=("mtp_num_layers", "mtp_replicate_modules", "mtp_disable_over_tokenizer"))
    checkpoint = imported(source, tmp_path)
    module = {name: value for name, value in stored(source).items() if name.startswith("model.mtp.")}
    assert len(module) == (17 if member != "2.0" else 21)
    same(stored(source), stored(CheckpointFolder(checkpoint.path).huggingface))
    assert checkpoint.facts.notes == ()
    export(checkpoint.path, tmp_path / "out", routed_only=True)
    again = import_folder(tmp_path / "out", Workspace(tmp_path / "other"))
    same(stored(source), stored(CheckpointFolder(again.path).huggingface))
    assert load_huggingface(CheckpointFolder(again.path).huggingface).config.mtp_num_layers == 1


def test_a_flash_with_multi_token_prediction_is_still_opened_by_transformers(tmp_path):
    written(tmp_path / "source", "model.mtp_num_layers=1", half=False)
    change_config(tmp_path / "source", {"num_nextn_predict_layers": 1}, ("mtp_num_layers",))
    export(imported(tmp_path / "source", tmp_path).path, tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == ["LongcatFlashForCausalLM"]
    tokens = torch.randint(3, 512, (1, 20))
    expected = logits_of(opened_by_transformers(tmp_path / "out"), tokens)
    assert (load_huggingface(tmp_path / "source")(tokens) - expected).abs().max() < 1e-4


def test_what_is_left_out_is_said_with_its_count(tmp_path):
    source = written(tmp_path / "source", "model.mtp_num_layers=1", NGRAM, half=False)
    weights = load_file(source / WEIGHTS)
    weights["model.mtp.oe_embed_tokens0.weight"] = torch.zeros(3, 4)
    weights["model.mtp.oe_embed_tokens1.weight"] = torch.zeros(3, 4)
    weights["model.rotary_emb.inv_freq"] = torch.zeros(4)
    weights["model.ngram_embeddings.word_embeddings.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, source / WEIGHTS)
    notes = imported(source, tmp_path).facts.notes
    assert "left out: 2 tensors of model.mtp (such as model.mtp.oe_embed_tokens0.weight)" in notes
    assert len(notes) == 3
    shutil.rmtree(tmp_path / "workspace")
    weights["model.mtp.embed_tokens.weight"] = weights["model.mtp.embed_tokens.weight"] + 1
    save_file(weights, source / WEIGHTS)
    assert (
        "left out: 3 tensors of model.mtp (such as model.mtp.embed_tokens.weight)"
        in imported(source, tmp_path).facts.notes
    )
    for name in [name for name in weights if name.startswith("model.mtp.layers.0.self_attn")]:
        del weights[name]
    save_file(weights, source / WEIGHTS)
    change_config(source, removed=("mtp_num_layers",))
    assert load_huggingface(source).config.mtp_num_layers == 0  # not the module this model has
    assert "left out: 12 tensors of model.mtp" in imported(source, tmp_path).facts.notes[0]


def test_tables_that_config_json_does_not_name_are_refused(tmp_path):
    source = written(tmp_path / "source", NGRAM, half=False)
    change_config(
        source, {"model_type": None}, ("ngram_vocab_size_ratio", "emb_neighbor_num", "emb_split_num", "architectures")
    )
    with pytest.raises(DataError, match=r"ngram_embeddings\.embedders\.0\.weight and 7 more belong to no part"):
        imported(source, tmp_path)


def rename_shards(source, pattern):
    """The folder in two files with names of somebody's own."""
    weights = load_file(source / WEIGHTS)
    names = sorted(weights)
    (source / WEIGHTS).unlink()
    files = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = pattern.format(number)
        save_file({name: weights[name] for name in part}, source / file)
        files |= dict.fromkeys(part, file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


@pytest.mark.parametrize(
    "pattern", ["model_{:05d}-of-00002.safetensors", "part{}.bin", "model-{:05d}-of-00002.safetensors"]
)
def test_a_checkpoint_is_known_by_the_files_that_are_read(tmp_path, pattern):
    source = written(tmp_path / "source", half=False)
    files = rename_shards(source, pattern)
    (source / "tokenizer_config.json").write_text("{}")
    first = imported(source, tmp_path)
    assert imported(source, tmp_path).cached
    (source / "unread.safetensors").write_bytes(b"of another model")
    assert imported(source, tmp_path).digest == first.digest
    for name in ("lm_head.weight", "model.norm.weight"):
        weights = load_file(source / files[name])
        weights[name] = weights[name] + 1
        save_file(weights, source / files[name])
        changed = imported(source, tmp_path)
        assert changed.digest != first.digest
        assert torch.equal(stored(CheckpointFolder(changed.path).huggingface)[name], weights[name])
        first = changed
    (source / "tokenizer_config.json").write_text('{"eos_token": "x"}')
    assert imported(source, tmp_path).digest != first.digest


def test_an_index_reads_files_of_its_folder_only(tmp_path):
    source = written(tmp_path / "source", half=False)
    shutil.move(source / WEIGHTS, tmp_path / WEIGHTS)
    with safe_open(tmp_path / WEIGHTS, framework="pt") as stream:
        names = list(stream.keys())
    for file in ("../model.safetensors", str(tmp_path / WEIGHTS)):
        (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, file)}))
        with pytest.raises(DataError, match="not the name of a file in the folder"):
            imported(source, tmp_path)


def quantise(source, dtype, suffix, block=None, scale_shape=None):
    """Two-dimensional weights in eight bits; the weights that they stand for."""
    weights, whole = load_file(source / WEIGHTS), {}
    for name, value in list(weights.items()):
        if not name.endswith("_proj.weight") or value.dim() != 2 or "indexer" in name:
            continue
        rows, columns = value.shape
        grid = (-(-rows // block[0]), -(-columns // block[1])) if block else scale_shape(rows)
        scale = torch.rand(grid) * 0.01 + 0.001
        codes = torch.randint(-100, 100, (rows, columns)).float().to(dtype)
        if block:
            spread = scale.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
        else:
            spread = scale.reshape(-1, 1)
        whole[name] = (codes.float() * spread).bfloat16()
        weights[name], weights[name + suffix] = codes, scale
    save_file(weights, source / WEIGHTS)
    return whole


@pytest.mark.parametrize(
    ("dtype", "suffix", "block", "shape", "config"),
    [
        (torch.float8_e4m3fn, "_scale_inv", (128, 128), None, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
        (torch.float8_e4m3fn, "_scale_inv", (16, 24), None, {"quant_method": "fp8", "weight_block_size": [16, 24]}),
        (torch.float8_e4m3fn, "_scale_inv", (128, 128), None, None),
        (torch.float8_e5m2, "_scale", None, lambda rows: (1,), {"quant_method": "compressed-tensors"}),
        (torch.int8, "_scale", None, lambda rows: (rows, 1), {"quant_method": "w8a8_int8"}),
        (torch.int8, "_scale", None, lambda rows: (rows,), None),
    ],
)  # fmt: skip
def test_eight_bit_weights_are_made_whole(tmp_path, dtype, suffix, block, shape, config):
    source = written(tmp_path / "source", "model.mtp_num_layers=1")
    whole = quantise(source, dtype, suffix, block, shape)
    change_config(source, {"quantization_config": config})
    folder = CheckpointFolder(imported(source, tmp_path).path).huggingface
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    found = stored(folder)
    for name, value in whole.items():
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(found[name], value), name
    assert not any("scale" in name for name in found)
    tokens = torch.randint(3, 512, (1, 20))
    assert torch.equal(load_huggingface(source)(tokens), load_huggingface(folder)(tokens))


def test_rows_are_made_whole_a_few_at_a_time():
    """More rows than are worked on at once, and a last block that is not whole."""
    weight, scale = torch.randn(4096 + 300, 200).to(torch.float8_e4m3fn), torch.rand(35, 2)
    expected = weight.float() * scale.repeat_interleave(128, 0)[:4396].repeat_interleave(128, 1)[:, :200]
    assert torch.equal(dequantise(weight, scale, (128, 128), torch.float32), expected)


def test_other_quantised_weights_are_refused_in_a_line(tmp_path):
    source = written(tmp_path / "source")
    original = load_file(source / WEIGHTS)
    name = "model.layers.0.self_attn.0.q_a_proj.weight"
    rows, columns = original[name].shape
    whole = {key: value for key, value in original.items() if key != name}
    q = torch.zeros(rows, columns, dtype=torch.int8)
    eight = {name: q, name + "_scale": torch.ones(rows, 1)}
    cases = [
        ({name.replace("weight", "qweight"): torch.zeros(2, 2, dtype=torch.int32)}, {"quant_method": "gptq"}, "gptq"),
        ({name + "_packed": torch.zeros(2, 2, dtype=torch.uint8)}, {"quant_method": "nvfp4"}, "nvfp4"),
        ({name: torch.zeros(rows, columns, dtype=torch.uint8)}, None, "U8"),
        ({name: q}, None, "I8 without"),
        ({name: q.to(torch.float8_e4m3fn)}, {"quant_method": "fp8"}, "F8_E4M3 without"),
        (eight | {name + "_scale": torch.ones(rows - 1, 1)}, None, "the scale of"),
        (eight | {name + "_zero_point": torch.ones(rows, 1)}, {"quant_method": "awq"}, "awq.*is not 0"),
    ]
    for tensors, config, words in cases:
        save_file(whole | tensors, source / WEIGHTS)
        change_config(source, {"quantization_config": config})
        with pytest.raises(DataError, match=words) as caught:
            imported(source, tmp_path)
        assert "\n" not in str(caught.value)
    save_file(
        whole | eight | {name + "_zero_point": torch.zeros(rows, 1), name[:-6] + "input_scale": torch.ones(1)},
        source / WEIGHTS,
    )
    notes = imported(source, tmp_path).facts.notes
    assert notes == (f"left out: 1 scales of quantised activations (such as {name[:-6]}input_scale)",)
