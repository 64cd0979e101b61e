"""Any checkpoint opens: an artifact, its digest, a folder of somebody else's."""

import json
from dataclasses import replace

import pytest
import torch

from longcat.accelerator import choose
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.errors import ConfigError, DataError
from longcat.inference.opening import open_checkpoint, read_chat_template, read_precision, settle_precision
from longcat.inference.prompts import read_prompts
from longcat.interchange import save_huggingface
from longcat.interchange.convert import export, import_folder
from longcat.model import LongcatModel

CPU = choose("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, byte_tokenizer):
    directory = tmp_path_factory.mktemp("theirs")
    model = LongcatModel(load_config("smoke", overrides=["model.vocab_size=259", "corpus.vocabulary_size=259"]).model)
    model.initialize(0)
    save_huggingface(model, directory)
    byte_tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, folder):
    space = Workspace(tmp_path_factory.mktemp("workspace"))
    import_folder(folder, space)
    return space


def test_a_folder_an_artifact_and_a_digest_are_the_same_model(folder, workspace, tmp_path):
    [artifact] = (workspace.path / "checkpoint").iterdir()
    tokens = torch.tensor([[5, 9, 200]])
    expected = open_checkpoint(folder, None, CPU).model.logits(tokens)
    export(folder, tmp_path / "exported")
    short = artifact.parent / artifact.name[:6]  # as the folder's name is told short
    for what in (artifact, short, str(short), artifact.name, artifact.name[:6], str(folder), tmp_path / "exported"):
        opened = open_checkpoint(what, workspace, CPU)
        assert torch.equal(opened.model.logits(tokens), expected)
        assert (opened.end_of_text, opened.window, opened.precision) == (2, 256, "fp32")
    assert open_checkpoint(artifact.name[:6], workspace, CPU).digest == artifact.name


def test_the_digest_of_a_folder_follows_its_files(folder, tmp_path):
    export(folder, tmp_path / "a")
    export(folder, tmp_path / "b")
    one, other = (open_checkpoint(tmp_path / name, None, CPU) for name in "ab")
    assert one.digest == other.digest and len(one.digest) == 32
    (tmp_path / "b/chat_template.jinja").write_text("{{ messages }}")
    assert open_checkpoint(tmp_path / "b", None, CPU).digest != one.digest


def test_what_cannot_be_opened_is_one_line(folder, workspace, tmp_path):
    for number in (1, 2):
        (workspace.path / f"checkpoint/abcd{number}").mkdir(exist_ok=True)
    wrong = [
        ("abcd", "several checkpoints .* begin so: abcd1, abcd2"),
        ("abc", "4 characters or more"),
        ("0000", "no checkpoint in .* whose digest begins so"),
        ("../is-not-there", "no such folder"),
        (tmp_path, r"there is no config\.json in"),
    ]
    for what, message in wrong:
        with pytest.raises(ConfigError, match=message):
            open_checkpoint(what, workspace, CPU)
    with pytest.raises(ConfigError, match="there is no such folder"):
        open_checkpoint("nothing-here", None, CPU)


def test_a_folder_without_tokenizer_or_with_too_large_a_one(folder, tmp_path):
    model = LongcatModel(load_config("smoke").model.model_copy(update={"vocab_size": 200, "eos_token_id": 2}))
    model.initialize(0)
    save_huggingface(model, tmp_path)
    with pytest.raises(ConfigError, match=r"no tokenizer\.json in"):
        open_checkpoint(tmp_path, None, CPU)
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    with pytest.raises(ConfigError, match=r"tokenizer\.json has ids up to 258, and the model in .* only 200 tokens"):
        open_checkpoint(tmp_path, None, CPU)


def test_precision(folder):
    assert settle_precision("auto", CPU) == "fp32"
    device = replace(CPU, kind="npu", supports_bf16=True)
    assert settle_precision("auto", device) == "bf16"
    assert settle_precision("auto", replace(device, supports_bf16=False)) == "fp32"
    assert settle_precision("fp32", device) == "fp32"
    opened = open_checkpoint(folder, None, CPU, "bf16")
    assert opened.model.lm_head.weight.dtype == torch.bfloat16
    assert opened.model.blocks[0].mlp.router.classifier.weight.dtype == torch.float32
    assert opened.model.lm_head.weight.is_contiguous()
    assert not open_checkpoint(folder, None, CPU, "fp32").model.lm_head.weight.is_contiguous()  # laid for few rows
    with pytest.raises(ConfigError, match="'fp8': there are auto, fp32, bf16"):
        read_precision("fp8")


def test_chat_templates(tmp_path):
    assert read_chat_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "x"}))
    assert read_chat_template(tmp_path) is None
    named = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert read_chat_template(tmp_path) == "D"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "J"}))
    assert read_chat_template(tmp_path) == "J"
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert read_chat_template(tmp_path) == "{{ messages }}"
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text("[1]")
    with pytest.raises(DataError, match=r"chat_template\.json: expected an object, found list"):
        read_chat_template(tmp_path)


def test_files_of_prompts(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffone\n\n  two \n", encoding="utf-8")
    assert read_prompts(tmp_path / "a.txt") == ["one", "  two "]
    (tmp_path / "a.jsonl").write_text('"a\\nb"\n\n{"prompt": "外卖"}\n', encoding="utf-8")
    assert read_prompts(tmp_path / "a.jsonl") == ["a\nb", "外卖"]
    for content, message in (
        ('"a"\n{"text": 1}\n', ":2: expected a JSON string"),
        ('"a', ":1: broken JSON"),
        ("\n", "has no prompts"),
    ):
        (tmp_path / "a.jsonl").write_text(content)
        with pytest.raises(DataError, match=message):
            read_prompts(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="cannot read the prompts"):
        read_prompts(tmp_path / "none.txt")
