"""A checkpoint that is named goes with its own model and tokenizer, wherever it comes from."""

import pytest

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.tokenizer import train_tokenizer
from longcat.errors import ConfigError
from longcat.inference.given import given_checkpoint, with_model_of
from longcat.interchange.folder import save_huggingface
from longcat.model import LongcatModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder of 64 positions with a tokenizer of its own."""
    path = tmp_path_factory.mktemp("theirs")
    settings = ["corpus.vocabulary_size=300", "corpus.sequence_length_tokens=64", "model.max_position_embeddings=64"]
    model = LongcatModel(load_config("smoke", overrides=settings).model)
    model.initialize(0)
    save_huggingface(model, path)
    train_tokenizer(["some words of another corpus " * 20], 300).save(str(path / "tokenizer.json"))
    return path


def test_a_folder_of_others_stays_where_it_is_and_is_known_by_its_content(folder, tmp_path):
    found = given_checkpoint(folder, Workspace(tmp_path / "w"))
    assert (found.kind, found.path, found.facts.imported_from) == ("checkpoint", folder, folder.name)
    assert found.digest == given_checkpoint(str(folder), Workspace(tmp_path / "v")).digest
    assert found.facts.parameters > 0
    assert not (tmp_path / "w" / "checkpoint").exists()


def test_the_configuration_takes_its_model_and_tokenizer(folder, tmp_path):
    config = load_config("smoke")
    assert config.model.max_position_embeddings > 64
    fitted = with_model_of(config, folder, Workspace(tmp_path))
    assert fitted.model.max_position_embeddings == fitted.corpus.sequence_length_tokens == 64
    assert fitted.corpus.tokenizer == str(folder / "tokenizer.json")
    assert fitted.corpus.vocabulary_size <= fitted.model.vocabulary == 300
    assert fitted.corpus.end_of_text == "</longcat_s>"
    assert fitted.corpus.sources == config.corpus.sources
    assert with_model_of(fitted, folder, Workspace(tmp_path)) == fitted


def test_what_is_no_checkpoint(folder, tmp_path):
    with pytest.raises(ConfigError, match="no such folder, and no checkpoint"):
        given_checkpoint("nowhere", Workspace(tmp_path))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        given_checkpoint(tmp_path / "bare", Workspace(tmp_path))
