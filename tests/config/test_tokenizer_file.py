import json

import pytest

from longcat.config import CorpusConfig
from longcat.config.tokenizer_file import TokenizerFile, end_of_text
from longcat.errors import ConfigError, DataError


def special(content, index):
    return {"content": content, "id": index, "special": True}


def write(path, vocabulary, added=()):
    path.write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": list(added)}))
    return path


@pytest.mark.parametrize(
    ("vocabulary", "added", "size"),
    [
        ({"a": 0, "b": 1}, [], 2),
        ({"a": 0, "b": 70_000}, [], 70_001),
        ({"a": 0, "b": 1}, [special("<eos>", 70_000)], 70_001),
        ({"a": 0, "<eos>": 1}, [special("<eos>", 1)], 2),
        ([["a", -1.5], ["b", -2.0]], [], 2),
        ({}, [], 0),
    ],
)
def test_the_vocabulary_ends_at_the_largest_id(tmp_path, vocabulary, added, size):
    assert TokenizerFile.read(write(tmp_path / "tokenizer.json", vocabulary, added)).vocabulary_size == size


def test_only_special_tokens_end_a_document(tmp_path):
    added = [special("<|endoftext|>", 0), {"content": "tab", "id": 9, "special": False}]
    path = write(tmp_path / "tokenizer.json", {"a": 1}, added)
    assert TokenizerFile.read(path).end_of_text("<|endoftext|>") == 0
    for name, message in (("tab", "ones are: <|endoftext|>"), ("<|endoftex|>", "did you mean '<|endoftext|>'")):
        with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
            TokenizerFile.read(path).end_of_text(name)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"model": {"vocab": 3}}', '{"model": {"vocab": {"a": "b"}}}', "\xff"]
)
def test_what_is_no_tokenizer_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"cannot read tokenizer .*tokenizer\.json: it is no tokenizer\.json"):
        TokenizerFile.read(path)
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read tokenizer .*tokenizer\.json: No such file"):
        TokenizerFile.read(path)


@pytest.mark.parametrize(
    ("vocabulary", "added", "message"),
    [
        ({"a": 0, "b": 0}, [], "'a' and 'b' both have id 0"),
        ({"a": 0}, [special("<eos>", 0)], "'a' and '<eos>' both have id 0"),
        ({"<eos>": 0}, [special("<eos>", 5)], "'<eos>' has the ids 0 and 5"),
        ({"a": -1}, [], "'a' has the negative id -1"),
    ],
)
def test_ids_that_contradict_one_another_are_refused(tmp_path, vocabulary, added, message):
    with pytest.raises(DataError, match=message):
        TokenizerFile.read(write(tmp_path / "tokenizer.json", vocabulary, added))


def test_the_end_of_text_of_a_corpus(tmp_path):
    assert end_of_text(CorpusConfig()) == 2
    path = write(tmp_path / "tokenizer.json", {"a": 1}, [special("<|endoftext|>", 0)])
    assert end_of_text(CorpusConfig(tokenizer=str(path), end_of_text="<|endoftext|>")) == 0
    with pytest.raises(ConfigError, match=r"no special token '</longcat_s>' \(corpus\.end_of_text\)"):
        end_of_text(CorpusConfig(tokenizer=str(path)))
