"""Files that are read as a whole are refused before memory is taken for one that cannot be what it should be."""

import json
import os
import resource
import struct
import threading

import pytest

from longcat import unpacking
from longcat.artifact import open_artifact
from longcat.config import load_config
from longcat.config.config_json import read_config, to_config_json
from longcat.config.tokenizer_file import TokenizerFile
from longcat.errors import DataError, UserError
from longcat.interchange.folder import WEIGHTS, HuggingFaceFolder
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
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_far_too_large_is_not_read(name, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"larger than 268,435,456 bytes, which no such file is"):
        READERS[name](tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


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
