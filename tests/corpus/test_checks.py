import json
import os

import pytest

from longcat.config import load_config
from longcat.corpus.checks import check_corpus
from longcat.corpus.tokenizer import train_tokenizer
from longcat.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with what a corpus may name, and things it may not; paths are relative to it."""
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "a.pdf").write_text("text\none\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "set.jsonl").write_text('\ufeff{"question": "one"}\n\n{"question": "two"}\n')
    (tmp_path / "broken.jsonl").write_text('{"question": "one"}\n{"question"\n')
    train_tokenizer(["some words to learn from, " * 50], 300).save(str(tmp_path / "mine.json"))
    (tmp_path / "no-tokenizer.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def check(*overrides):
    check_corpus(load_config("smoke", overrides=["corpus.sources=a.jsonl", *overrides]))


def test_what_can_be_there_is_let_through_unread(folder):
    check()
    check("corpus.sources=[a.jsonl, stdlib, hub:org/name, .]")
    check(
        "corpus.decontaminate=[data, set.jsonl]",
        "corpus.filters=[gopher, 'builtins:bool']",
        "corpus.languages=[zh, 'no']",
    )
    check("corpus.tokenizer=mine.json", "corpus.quality={function: 'builtins:len', minimum: 1}")
    (folder / "a.jsonl").write_text("not JSON")
    check()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["a.pdf", "a.jsonl", "broken.jsonl", "empty", "mine.json", "no-tokenizer.json", "set.jsonl"]
    )


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("corpus.sources=b.jsonl", DataError, r"corpus source b\.jsonl does not exist \(relative paths start at /"),
        ("corpus.sources=[a.jsonl, b.jsonl]", DataError, r"corpus source b\.jsonl does not exist"),
        ("corpus.sources=a.pdf", DataError, r"a\.pdf has a format that is not read; formats are \.jsonl"),
        ("corpus.sources=empty", DataError, "empty holds no file that can be read"),
        ("corpus.sources=s3a://bucket/a.jsonl", DataError, r"s3a:// needs a package that is not installed \(.*s3fs"),
        ("corpus.sources=nfs4://host/a.jsonl", DataError, "nfs4:// is no protocol that fsspec knows"),
        ("corpus.decontaminate=b.jsonl", DataError, r"corpus\.decontaminate: b\.jsonl does not exist"),
        ("corpus.decontaminate=broken.jsonl", DataError, r"broken\.jsonl:2: broken JSON"),
        ("corpus.filters=gofer", ConfigError, "no rule 'gofer'; did you mean 'gopher'"),
        ("corpus.filters='no_such_module:keep'", ConfigError, "cannot be imported"),
        (
            "corpus.quality={function: 'math:pi', minimum: 1}",
            ConfigError,
            r"corpus\.quality\.function=math:pi is no function",
        ),
        ("corpus.languages=eng", ConfigError, r"corpus\.languages: 'eng' is not .*did you mean 'en'"),
        ("corpus.languages=yue", ConfigError, "did you mean 'zh'"),
    ],
)
def test_what_preprocessing_would_refuse_is_refused(folder, override, error, message):
    with pytest.raises(error, match=message):
        check(override)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["corpus.tokenizer=no-tokenizer.json"], DataError, r"cannot read tokenizer no-tokenizer\.json"),
        (["corpus.tokenizer=nowhere.json"], DataError, r"cannot read tokenizer nowhere\.json: No such file"),
        (
            ["corpus.tokenizer=mine.json", "corpus.end_of_text=<eos>"],
            ConfigError,
            r"mine\.json has no special token '<eos>'",
        ),
        (
            ["corpus.tokenizer=mine.json", "corpus.end_of_text=<longcat_s>"],
            ConfigError,
            "model.eos_token_id=2, but .* is token 1",
        ),
        (
            ["corpus.tokenizer=mine.json", "corpus.vocabulary_size=260"],
            ConfigError,
            "corpus.vocabulary_size=260 has to be at",
        ),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_model_is_refused(folder, overrides, error, message):
    with pytest.raises(error, match=message):
        check("model.eos_token_id=2", *overrides)


def test_a_file_that_may_not_be_read_is_named(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match=r"cannot read a\.jsonl: Permission denied"):
        check()


def test_a_package_needs_its_client_unless_it_has_been_fetched(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match="apt:a-doc: there is no apt-get on this machine"):
        check("corpus.sources='apt:a-doc'")
    (folder / "cache/longcat/packages/apt-a-doc").mkdir(parents=True)
    check("corpus.sources='apt:a-doc'")


def test_the_largest_id_has_to_fit_however_few_tokens_there_are(folder):
    content = json.loads((folder / "mine.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "content": "<eos>", "id": 70_000})
    (folder / "mine.json").write_text(json.dumps(content))
    own = ("corpus.tokenizer=mine.json", "corpus.end_of_text=<eos>")
    with pytest.raises(ConfigError, match="ids up to 70000; corpus.vocabulary_size=70000 has to be at least 70001"):
        check(*own, "corpus.vocabulary_size=70000", "model.vocab_size=80000", "model.eos_token_id=70000")
    check(*own, "corpus.vocabulary_size=70001")
