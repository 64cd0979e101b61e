"""Checkpoints of others may hold anything: whoever reads one runs nothing of it."""

import ast
import builtins
import collections
import functools
import json
import operator
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, ChunkStorageMetadata, Metadata, MetadataIndex

from longcat.accelerator import choose
from longcat.artifact import MANIFEST, Workspace, open_artifact, sha256_file
from longcat.benchmark.measurement import measure
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.errors import ArtifactError, DataError, UserError
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.folder import HuggingFaceFolder, save_huggingface
from longcat.model.transformer import LongcatModel
from longcat.parallel.axes import Degrees
from longcat.provenance import ROOT
from longcat.training import checkpoint
from longcat.training import checkpoint_files as files
from longcat.training.checkpoint_files import RunRecord
from longcat.training.checkpoint_reader import METADATA, CheckpointReader
from longcat.training.state_reader import state_reader
from longcat.training.trainer import Trainer
from tests.checkpoints import write_checkpoint


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Reference(pickle.Pickler):
    """Refers to everything as kept elsewhere."""

    def persistent_id(self, _):
        return "elsewhere"


def calls(mark):
    """Ways to make a file, each by other means."""
    write = f"open({str(mark)!r}, 'w').close()"
    return {
        "system": Call(os.system, f"touch {mark}"),
        "subprocess": Call(subprocess.check_call, ["touch", str(mark)]),
        "exec": Call(builtins.exec, write),
        "open": Call(builtins.open, str(mark), "w"),
        "getattr": Call(builtins.getattr, str(mark), "join"),
        "partial": Call(functools.partial, os.mkdir, str(mark)),
        "caller": Call(operator.methodcaller, "touch"),
        "torch.load": Call(torch.load, str(mark)),
        "path": Call(Path.touch, mark),
    }


@pytest.fixture
def mark(tmp_path):
    """A file that nobody may make."""
    yield tmp_path / "mark"
    assert not (tmp_path / "mark").exists()


@pytest.fixture
def folder(tmp_path):
    """A small checkpoint as torch writes it."""
    state = {"model": {"a": torch.arange(12.0).view(3, 4)}, "step": torch.tensor(3), "rate": 0.1}
    with pytest.warns(UserWarning, match="single process"):
        dcp.save(state, checkpoint_id=tmp_path / "state", no_dist=True)
    return tmp_path / "state"


def table(folder):
    return pickle.loads((folder / METADATA).read_bytes())


def put(folder, metadata):
    (folder / METADATA).write_bytes(pickle.dumps(metadata))


def readers(folder):
    """What reads a folder in this process."""
    return [lambda: CheckpointReader(folder).read_metadata(), lambda: state_reader(folder)]


def refused(folder):
    told = []
    for read in readers(folder):
        with pytest.raises(DataError) as caught:
            read()
        told.append(str(caught.value))
        assert str(folder) in told[-1]
    return told[0]


WAYS = list(calls("x"))
PLACES = {
    "whole": lambda metadata, evil: evil,
    "note": lambda metadata, evil: setattr(metadata, "planner_data", evil) or metadata,
    "storage": lambda metadata, evil: metadata.storage_data.update({evil: 1}) or metadata,
    "size": lambda metadata, evil: setattr(metadata.state_dict_metadata["model.a"], "size", evil) or metadata,
    "name": lambda metadata, evil: metadata.state_dict_metadata.update({evil: 1}) or metadata,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_in_a_table_of_contents_is_run(folder, mark, way, place):
    put(folder, PLACES[place](table(folder), calls(mark)[way]))
    assert "it asks for" in refused(folder)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (b"cos\nsystem\n(S'touch x'\ntR.", "os.system"),
        (b"\x80\x04\x8c\x05torch\x8c\x12serialization.load\x93.", "torch.serialization.load"),
        (
            b"\x80\x04\x8c%torch.distributed.checkpoint.metadata\x8c\x11Metadata.__init__\x93.",
            "torch.distributed.checkpoint.metadata.Metadata.__init__",
        ),
        (b"\x80\x04\x8c\x05torch\x8c\x06Tensor\x93.", "torch.Tensor"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "builtins.eval"),
    ],
)
def test_names_are_not_looked_up(folder, code, told):
    (folder / METADATA).write_bytes(code)
    assert f"it asks for {told}" in refused(folder)


def test_references_are_not_followed(folder, tmp_path):
    with (folder / METADATA).open("wb") as stream:
        Reference(stream).dump(table_of_nothing())
    assert "outside of it" in refused(folder)


def table_of_nothing():
    return Metadata({}, storage_data={})


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"not a pickle", b"\x80\x04N.", b"\x80\x04]\x94.", b"\xff" * 99])
def test_what_is_no_table_is_named(folder, content):
    (folder / METADATA).write_bytes(content)
    assert "is not the table of contents of a checkpoint" in refused(folder)


def test_a_missing_table_is_named(folder):
    (folder / METADATA).unlink()
    assert "No such file" in refused(folder)


def outside(metadata):
    for place in metadata.storage_data.values():
        place.relative_path = "../" + place.relative_path
    return metadata


def extended(metadata):
    for place in metadata.storage_data.values():
        place.transform_descriptors = ["zstd"]
    return metadata


def chunks(*parts):
    def of(metadata):
        stored = metadata.state_dict_metadata["model.a"]
        stored.chunks = [ChunkStorageMetadata(torch.Size(offset), torch.Size(size)) for offset, size in parts]
        [place] = [of for index, of in metadata.storage_data.items() if index.fqn == "model.a"]
        for number, (offset, _) in enumerate(parts):
            metadata.storage_data[MetadataIndex("model.a", torch.Size(offset), number)] = place
        return metadata

    return of


def nowhere(metadata):
    metadata.storage_data = {index: of for index, of in metadata.storage_data.items() if index.fqn != "model.a"}
    return metadata


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (outside, "no file of the folder"),
        (extended, "in a form of its own"),
        (nowhere, "lies nowhere"),
        (chunks(((0, 0), (2, 4))), "each once"),
        (chunks(((0, 0), (2, 4)), ((1, 0), (1, 4))), "each once"),
        (chunks(((0, 0), (3, 4)), ((0, 0), (3, 4))), "each once"),
        (chunks(((0, 0), (2, 4)), ((2, 0), (2, 4))), "outside of it"),
        (chunks(((0, 0), (2, 2)), ((1, 2), (2, 2)), ((0, 2), (1, 2)), ((2, 0), (1, 4))), "each once"),
    ],
)
def test_a_table_that_does_not_hold_each_number_once_is_refused(folder, change, told):
    put(folder, change(table(folder)))
    assert told in refused(folder)


@pytest.mark.parametrize(
    "parts",
    [
        (((0, 0), (3, 4)),),
        (((1, 0), (2, 4)), ((0, 0), (1, 4))),
        (((0, 0), (3, 1)), ((0, 1), (1, 3)), ((1, 1), (2, 3))),
        (((0, 0), (3, 4)), ((3, 0), (0, 4))),
    ],
)
def test_parts_in_any_order_are_read(folder, parts):
    put(folder, chunks(*parts)(table(folder)))
    read = CheckpointReader(folder).read_metadata()
    assert set(read.state_dict_metadata) == {"model.a", "step"}, "what is no tensor is left out"


SMOKE = load_config("smoke")


def write(mesh, folder):
    trainer = Trainer(SMOKE, mesh, choose("cpu"), "fp32")
    write_checkpoint(folder, 3, trainer.weights, trainer.optimizers)


def load(mesh, folder):
    """What loading a folder says, after its digests have been found to be right."""
    trainer = Trainer(SMOKE, mesh, choose("cpu"), "fp32")
    found, damaged = checkpoint.first_sound(folder.parent, [3])
    assert (found, damaged) == (folder, [])
    with pytest.raises(ArtifactError) as told:
        checkpoint.load(folder, trainer.weights, trainer.optimizers)
    return str(told.value)


def sign(folder):
    """Write digests that are right, as whoever made the folder can."""
    RunRecord().write(folder)
    digests = {
        path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        for path in folder.iterdir()
        if path.name != files.DIGESTS
    }
    (folder / files.DIGESTS).write_text(json.dumps({"step": 3, "files": digests}))


@pytest.mark.slow
def test_resuming_runs_nothing(ranks, tmp_path, mark):
    """Neither from the table, nor from an entry that is said to be a pickle in place of a tensor."""
    folder = files.folder_of(tmp_path, 3)
    ranks.on_mesh(Degrees(2), write, folder)
    metadata = table(folder)
    [place] = [of for index, of in metadata.storage_data.items() if index.fqn == "step"]
    metadata.storage_data = {index: of for index, of in metadata.storage_data.items() if index.fqn != "step"}
    metadata.storage_data[MetadataIndex("step")] = place
    metadata.state_dict_metadata["step"] = BytesStorageMetadata()
    evil = pickle.dumps(calls(mark)["system"])
    place.relative_path, place.offset, place.length = "evil", 0, len(evil)
    (folder / "evil").write_bytes(evil)
    put(folder, metadata)
    sign(folder)
    assert all("it has no step" in told for told in ranks.on_mesh(Degrees(2), load, folder))
    put(folder, calls(mark)["system"])
    sign(folder)
    assert all("it asks for" in told for told in ranks.on_mesh(Degrees(2), load, folder))


@pytest.mark.slow
def test_a_benchmark_of_a_checkpoint_of_others_runs_nothing(smoke_run, smoke_settings, smoke_tokens, mark):
    """Its manifest is right, as its author wrote it."""
    [made] = (smoke_run[0] / "checkpoint").glob("[!.]*")
    copy = smoke_tokens / "checkpoint" / made.name
    shutil.copytree(made, copy)
    put(copy / "state", calls(mark)["system"])
    manifest = json.loads((copy / MANIFEST).read_text())
    evil = copy / "state" / METADATA
    manifest["files"][f"state/{METADATA}"] = {"sha256": sha256_file(evil), "bytes": evil.stat().st_size}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    workspace, config = Workspace(smoke_tokens), load_config("smoke", None, smoke_settings)
    found = open_artifact(copy, CheckpointFacts)
    with pytest.raises(UserError, match="it asks for"):
        measure(config, preprocess(config, workspace=workspace), found, workspace=workspace)


@pytest.mark.parametrize("way", ["system", "exec"])
@pytest.mark.parametrize("protocol", ["pickle", "torch"])
def test_importing_weights_runs_nothing(tmp_path, mark, way, protocol):
    folder = tmp_path / "weights"
    folder.mkdir()

    model = LongcatModel(SMOKE.model)
    model.initialize(0)
    save_huggingface(model, folder)
    evil = calls(mark)[way]
    for name in ("pytorch_model.bin", "model.safetensors"):
        if protocol == "pickle":
            (folder / name).write_bytes(pickle.dumps(evil))
        else:
            torch.save(collections.OrderedDict(x=evil), folder / name)
    with pytest.raises(DataError, match="cannot read the weights"):
        HuggingFaceFolder(folder)


READERS = {"pickle": {"load", "loads", "Unpickler"}, "torch": {"load"}, "joblib": {"load"}, "dill": {"load"}}
"""Functions that run what they read, by module."""


def uses(path):
    """Lines of a file that read pickles: by a function above, by torch's reader of checkpoints, or by NumPy."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in READERS.get(ast.unparse(node.value), ()):
            yield node.lineno, ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and node.module in READERS:
            yield from (
                (node.lineno, f"{node.module}.{of.name}") for of in node.names if of.name in READERS[node.module]
            )
        if isinstance(node, ast.Name) and node.id in ("FileSystemReader", "DefaultLoadPlanner"):
            yield node.lineno, node.id
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield node.value.lineno, "allow_pickle"
        if isinstance(node, ast.keyword) and node.arg == "weights_only" and ast.unparse(node.value) != "True":
            yield node.value.lineno, "weights_only"


def test_only_the_reader_of_tables_unpickles():
    found = {(str(path.relative_to(ROOT)), name) for path in (ROOT / "longcat").rglob("*.py") for _, name in uses(path)}
    assert found == {
        ("longcat/training/checkpoint_reader.py", "pickle.Unpickler"),
        ("longcat/training/checkpoint_reader.py", "FileSystemReader"),
    }
