"""Files that are read as a whole are refused before memory is taken for one that cannot be what it should be."""

import json
import os
import resource
import struct
import threading

import pytest

from longcat import lease, unpacking
from longcat.artifact import open_artifact
from longcat.config import load_config
from longcat.config.config_json import read_config, to_config_json
from longcat.config.tokenizer_file import TokenizerFile
from longcat.corpus.shards import INDEX, TokenCorpus
from longcat.errors import DataError, UserError
from longcat.interchange.folder import HuggingFaceFolder
from longcat.interchange.writing import WEIGHTS
from longcat.tracking.journal import Sent, parse
from longcat.training.checkpoint_files import DIGESTS, RUN, RunRecord, fault
from longcat.unpacking import read_bounded


@pytest.fixture
def folder_of_a_model(tmp_path):
    config = to_config_json(load_config("smoke").model, "float32")
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def endless(path):
    """A file of a terabyte that takes no room."""
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    return path


READERS = {
    "configuration": lambda folder: load_config(None, endless(folder / "a.yaml"), ()),
    "config.json": lambda folder: read_config(endless(folder / "config.json").parent),
    "tokenizer": lambda folder: TokenizerFile.read(endless(folder / "tokenizer.json")),
    "manifest": lambda folder: open_artifact(endless(folder / "manifest.json").parent, dict),
    "state of a run": lambda folder: RunRecord.read(endless(folder / RUN).parent),
    "index of tokens": lambda folder: TokenCorpus.open(endless(folder / INDEX).parent),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_far_too_large_is_not_read(name, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"larger than 268,435,456 bytes, which no such file is"):
        READERS[name](tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


DEEP = b"[" * 100_000 + b"]" * 100_000
JSON = {
    "config.json": lambda path: read_config(path.parent),
    "tokenizer.json": TokenizerFile.read,
    "manifest.json": lambda path: open_artifact(path.parent, dict),
    RUN: lambda path: RunRecord.read(path.parent),
    INDEX: lambda path: TokenCorpus.open(path.parent),
}


@pytest.mark.parametrize("name", JSON)
def test_json_that_is_nested_too_deeply_is_damaged(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(DEEP)
    with pytest.raises(UserError, match="too deep|recursion"):
        JSON[name](path)


@pytest.mark.parametrize("damage", [DEEP, None])
def test_digests_that_cannot_be_read_are_a_reason_to_take_another_checkpoint(tmp_path, damage):
    path = tmp_path / DIGESTS
    endless(path) if damage is None else path.write_bytes(damage)
    assert f"{path} is missing or unreadable" in fault(tmp_path)


@pytest.mark.parametrize("line", [DEEP, b'{"a": ' * 100_000 + b"}" * 100_000])
def test_lines_of_json_that_are_nested_too_deeply(tmp_path, line):
    with pytest.raises(ValueError, match="nested too deeply"):
        parse(line)
    assert Sent.of(tmp_path / "none.jsonl") == Sent()
    (tmp_path / "run.sent.json").write_bytes(line)
    assert Sent.of(tmp_path / "run.jsonl") == Sent()
    path = tmp_path / "lease"
    path.write_bytes(line)
    assert lease._read(path) == {}


def test_nor_is_one_that_has_no_end(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MOST_TEXT_BYTES", 1 << 16)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write():
        with pipe.open("wb") as stream:
            stream.write(bytes(1 << 17))

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    with pytest.raises(DataError, match="pipe is larger than 65,536 bytes"):
        read_bounded(pipe)


@pytest.mark.parametrize(
    "weights, why",
    [
        (struct.pack("<Q", 1 << 40) + b"{}", "header"),
        (struct.pack("<Q", (1 << 64) - 1) + b"{}", "header"),
        (struct.pack("<Q", 90 << 20) + b"{}", "header"),
        (struct.pack("<Q", 100_000) + b"[" * 100_000, "header"),
        (b"\x07", "header"),
        (
            (lambda text: struct.pack("<Q", len(text)) + text)(
                json.dumps({"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}}).encode()
            ),
            "header|buffer|metadata|overflow|incomplete",
        ),
    ],
)
def test_a_header_of_safetensors_that_lies_is_one_line(weights, why, folder_of_a_model):
    (folder_of_a_model / WEIGHTS).write_bytes(weights)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=f"cannot read the weights.*(?:{why})"):
        HuggingFaceFolder(folder_of_a_model)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_an_index_that_is_nested_without_end_is_one_line(folder_of_a_model):
    for content in (b"[" * 100_000, b'{"weight_map": 3}'):
        (folder_of_a_model / "model.safetensors.index.json").write_bytes(content)
        with pytest.raises(DataError, match="cannot read the weights"):
            HuggingFaceFolder(folder_of_a_model)
