"""The token that ends a text is the model's own wherever a folder says it, and comes back."""

import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from typer.testing import CliRunner

from longcat.artifact import Workspace
from longcat.cli import app
from longcat.config import load_config
from longcat.errors import ConfigError
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.interchange.convert import export, import_folder
from longcat.interchange.folder import load_huggingface, save_huggingface
from longcat.model.transformer import LongcatModel


def byte_level(*special):
    """A tokenizer of somebody's own, whose special tokens come first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["some words to learn from, " * 20], trainer)
    return tokenizer


OWN = {
    "first": (["<|endoftext|>"], 0, None, ("<|endoftext|>", "<|endoftext|>")),
    "later": (["<pad>", "<a>", "<b>", "<c>", "<|end|>"], 4, None, ("<|end|>", "<|end|>")),
    "with a beginning": (["<|end|>", "<x>", "<|begin|>"], 0, 2, ("<|begin|>", "<|end|>")),
    "longcat's": (["<longcat_unk>", "<longcat_s>", "</longcat_s>"], 2, None, ("<longcat_s>", "</longcat_s>")),
}


@pytest.fixture(params=OWN)
def folder(request, tmp_path):
    """A model with such a tokenizer, as pre-training leaves it."""
    special, end, begin, strings = OWN[request.param]
    ids = {"eos_token_id": end, "bos_token_id": begin}
    model = LongcatModel(load_config("smoke").model.model_copy(update=ids))
    model.initialize(0)
    checkpoint = CheckpointFolder(tmp_path / "checkpoint")
    save_huggingface(model, checkpoint.huggingface)
    byte_level(*special).save(str(checkpoint.tokenizer))
    return checkpoint, model, (end, end if begin is None and end != 2 else begin or 1), strings


def test_an_exported_folder_says_it_everywhere(folder, tmp_path):
    checkpoint, model, (end, begin), strings = folder
    export(checkpoint.path, tmp_path / "out")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for one in (config, generation, tokenizer):
        assert (one.eos_token_id, one.bos_token_id) == (end, begin), type(one)
    assert (tokenizer.bos_token, tokenizer.eos_token) == strings
    text = f"some words{strings[1]}more"
    ids = tokenizer(text).input_ids  # spelled out, as in the corpus
    assert end not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.decode([*ids, end], skip_special_tokens=True) == text
    again = import_folder(tmp_path / "out", Workspace(tmp_path / "workspace"))
    assert load_huggingface(CheckpointFolder(again.path).huggingface).config == model.config
    export(again.path, tmp_path / "twice")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_transformers_and_we_stop_at_it(folder, tmp_path):
    """A model that always prefers the end adds nothing to a prompt, in either program."""
    checkpoint, model, (end, _), _ = folder
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name or "embed_tokens" in name else 0.0)
        model.lm_head.weight[end] = 1.0
    save_huggingface(model, checkpoint.huggingface)
    export(checkpoint.path, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    made = theirs.generate(torch.tensor([[9, 10]]), max_new_tokens=5, do_sample=False)
    assert made.tolist() == [[9, 10, end]]
    for prompt in ("some", ""):
        result = CliRunner().invoke(app, ["generate", "--checkpoint", str(checkpoint.path), "--prompt", prompt])
        assert result.exit_code == 0, result.output
        assert result.output == f"{prompt}\n"


def test_a_model_that_does_not_know_its_end_is_not_written(tmp_path):
    model = LongcatModel(load_config("smoke").model.model_copy(update={"eos_token_id": None}))
    with pytest.raises(ConfigError, match="eos_token_id is not set"):
        save_huggingface(model, tmp_path)


def test_files_of_the_tokenizer_are_kept_as_they_are(tmp_path):
    """A chat model's own tokenizer_config.json and generation_config.json are not replaced."""
    model = LongcatModel(load_config("smoke").model)
    model.initialize(0)
    save_huggingface(model, tmp_path / "theirs")
    byte_level("<longcat_unk>", "<longcat_s>", "</longcat_s>").save(str(tmp_path / "theirs/tokenizer.json"))
    files = {
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<longcat_unk>"}
        ),
        "generation_config.json": json.dumps({"eos_token_id": [2, 0], "temperature": 0.7}),
        "chat_template.jinja": "{{ messages }}",
        "special_tokens_map.json": "{}",
    }
    for name, text in files.items():
        (tmp_path / "theirs" / name).write_text(text)
    checkpoint = import_folder(tmp_path / "theirs", Workspace(tmp_path / "workspace"))
    export(checkpoint.path, tmp_path / "out")
    for name, text in files.items():
        assert (tmp_path / "out" / name).read_text() == text


@pytest.mark.slow
def test_a_checkpoint_of_pre_training_says_it_too(smoke_run):
    [checkpoint] = (smoke_run[0] / "checkpoint").glob("[!.]*")
    tokenizer = transformers.AutoTokenizer.from_pretrained(CheckpointFolder(checkpoint).huggingface)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("</longcat_s>", 2)
    assert 2 not in tokenizer("a</longcat_s>b").input_ids
