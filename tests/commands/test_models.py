"""`longcat import`, `export` and `mfu` on folders as others publish them."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from longcat.cli import app
from longcat.config import load_config
from longcat.errors import ConfigError
from longcat.interchange.folder import save_huggingface
from longcat.model.transformer import LongcatModel
from tests.interchange.reference import change_config


@pytest.fixture
def folder(tmp_path):
    model = LongcatModel(load_config("smoke").model)
    model.initialize(0)
    save_huggingface(model, tmp_path / "theirs")
    return tmp_path / "theirs"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_import_says_what_it_leaves_out(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "model.mtp.norm.weight": torch.zeros(64)}, folder / "model.safetensors")
    change_config(folder, {"eos_token_id": [2, 5]})
    for _ in range(2):  # of a checkpoint that is there already, too
        result = run("import", folder, "--workspace", tmp_path / "space")
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(str(tmp_path / "space/checkpoint"))
        assert result.stdout.count("\n") == 1
        assert result.stderr.splitlines() == [
            "eos_token_id [2, 5]: only 2 is used",
            "left out: 1 tensors of model.mtp (such as model.mtp.norm.weight)",
        ]


def test_import_refuses_another_model(folder, tmp_path):
    for changes, words in (
        ({"architectures": ["FLASHLocalForCausalLM"]}, "FLASHLocalForCausalLM is not supported"),
        ({"router_bias": True}, "router_bias True is not supported, only False"),
        ({"router_bias": False, "sliding_window": 512}, "unknown key sliding_window"),
    ):
        change_config(folder, {"architectures": ["LongcatFlashForCausalLM"], **changes})
        result = run("import", folder, "--workspace", tmp_path / "space")
        assert isinstance(result.exception, ConfigError)
        assert words in str(result.exception)
        assert f"{folder}/config.json" in str(result.exception)
    assert not (tmp_path / "space/checkpoint").exists()


def test_scales_of_latent_attention(folder, tmp_path):
    """A model without them is imported as it is, and not written for transformers' class, which always has them."""
    change_config(folder, {"mla_scale_q_lora": False})
    imported = run("import", folder, "--workspace", tmp_path / "space")
    assert imported.exit_code == 0, imported.output
    result = run("export", "--checkpoint", imported.stdout.strip(), "--output", tmp_path / "out")
    assert isinstance(result.exception, ConfigError)
    assert "always has both scales" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_mfu_of_a_folder_needs_no_torch(folder):
    """As published: the architecture is named, the model type is not."""
    change_config(folder, {"model_type": None})
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LongcatFlashForCausalLM"]
    code = (
        "import sys; from typer.testing import CliRunner; from longcat.cli import app; "
        f"r = CliRunner().invoke(app, ['mfu', '--model', {str(folder)!r}, '--device', 'a100-80gb', '--devices', '8', "
        "'--tokens-per-second', '5000', '--sequence-length', '512']); print(r.output); "
        "assert r.exit_code == 0, r.exception; assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "MFU" in result.stdout
