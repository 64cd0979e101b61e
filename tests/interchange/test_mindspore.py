"""Folders for MindSpore hold what the checkpoint holds, bit by bit, and come back; what does not fit is refused by name."""

import errno
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from longcat.artifact import Workspace
from longcat.cli import app
from longcat.errors import ConfigError, DataError, StorageError
from longcat.interchange.convert import export, import_folder
from longcat.interchange.folder import load_huggingface
from longcat.interchange.mindspore import CHECKSUMS, PROGRAMS
from longcat.provenance import DATA
from tests.interchange.test_stored import FAMILY, NGRAM, SPARSE, WEIGHTS, make, same, stored, written

KINDS = {"flash": [], "lite": [NGRAM], "with MTP": [NGRAM, "model.mtp_num_layers=2"]}


def exported(source, target, **options):
    export(source, target, format_="mindspore", **options)
    return target


def imported(folder, tmp_path):
    return import_folder(folder, Workspace(tmp_path / "workspace")).path / "huggingface"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("half", [True, False], ids=["bf16", "fp32"])
def test_bytes_survive_the_round_trip(tmp_path, kind, half):
    first = imported(written(tmp_path / "theirs", *KINDS[kind], half=half), tmp_path)
    again = imported(exported(first, tmp_path / "mindspore"), tmp_path / "again")
    for path in sorted(first.iterdir()):
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name
    same(stored(exported(again, tmp_path / "mindspore-again")), stored(tmp_path / "mindspore"))


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_shapes_are_those_of_the_model(tmp_path, kind):
    model = make(*KINDS[kind])
    folder = exported(written(tmp_path / "theirs", *KINDS[kind], half=False), tmp_path / "mindspore")
    found, state = stored(folder), model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    for name in PROGRAMS:
        assert (folder / name).read_bytes() == (DATA / "mindspore" / name).read_bytes()


def test_several_files(tmp_path):
    theirs = written(tmp_path / "theirs", NGRAM)
    folder = exported(theirs, tmp_path / "mindspore", shard_bytes=60_000)
    assert len(list(folder.glob("model-*.safetensors"))) > 3 and not (folder / WEIGHTS).exists()
    same(stored(imported(folder, tmp_path)), stored(theirs))


def test_it_is_a_checkpoint_like_others(tmp_path):
    theirs = written(tmp_path / "theirs", NGRAM, half=False)
    folder = exported(theirs, tmp_path / "mindspore")
    tokens = torch.randint(0, 512, (2, 9))
    assert torch.equal(load_huggingface(folder).logits(tokens), load_huggingface(theirs).logits(tokens))
    export(folder, tmp_path / "back")
    same(stored(tmp_path / "back"), stored(theirs))


def test_a_type_may_be_chosen(tmp_path):
    folder = exported(written(tmp_path / "theirs", half=False), tmp_path / "mindspore", dtype="bfloat16")
    types = {".router." in name: value.dtype for name, value in stored(folder).items()}
    assert types == {True: torch.float32, False: torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_what_mindspore_cannot_hold_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.sparse_attention: .*dense attention only.*--format huggingface"):
        exported(written(tmp_path / "2.0", *FAMILY["2.0"]), tmp_path / "out")
    theirs = written(tmp_path / "theirs", half=False)
    weights = load_file(theirs / WEIGHTS)
    name = "model.layers.0.mlp.experts.1.up_proj.weight"
    save_file(weights | {name: weights[name].bfloat16()}, theirs / WEIGHTS)
    mixed = rf"experts\.gate_up_proj in one type, but .*gate_proj.weight is float32 and {name} is bfloat16; name one with --dtype"
    with pytest.raises(ConfigError, match=mixed):
        exported(theirs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    exported(theirs, tmp_path / "out", dtype="float32")


def change(folder, changes, *, keep_checksums=False):
    weights = load_file(folder / WEIGHTS)
    for name, value in changes.items():
        if value is None:
            del weights[name]
        else:
            weights[name] = value
    save_file(weights, folder / WEIGHTS)
    if not keep_checksums:
        (folder / CHECKSUMS).unlink()


UP, NORM = "model.layers.0.mlp.experts.gate_up_proj", "model.norm.weight"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({NORM: None}, f"{NORM} is missing"),
        ({UP: torch.zeros(4, 3, 64)}, rf"{UP} has shape \[4, 3, 64\], expected \[4, 64, 64\]"),
        ({NORM: torch.zeros(64, dtype=torch.int64)}, f"{NORM} is stored as I64"),
        ({"first_moment.model.norm.weight": torch.zeros(64)}, "first_moment.model.norm.weight belong to no part"),
    ],
)
def test_a_folder_with_other_tensors_is_refused(tmp_path, changes, words):
    folder = exported(written(tmp_path / "theirs", half=False), tmp_path / "mindspore")
    change(folder, changes)
    with pytest.raises(DataError, match=words):
        imported(folder, tmp_path)


def test_a_folder_that_was_changed_is_refused_unless_it_is_meant(tmp_path):
    folder = exported(written(tmp_path / "theirs", half=False), tmp_path / "mindspore")
    change(folder, {NORM: torch.full((64,), 2.0)}, keep_checksums=True)
    with pytest.raises(DataError, match=r"model.safetensors was changed since it was written; .*delete checksums.json"):
        imported(folder, tmp_path)
    with pytest.raises(DataError, match=r"model.safetensors was changed since it was written"):
        export(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    (folder / CHECKSUMS).unlink()
    assert load_huggingface(imported(folder, tmp_path)).model.norm.weight.eq(2).all()


def test_a_changed_program_is_no_change_of_the_checkpoint(tmp_path):
    folder = exported(written(tmp_path / "theirs", half=False), tmp_path / "mindspore")
    (folder / PROGRAMS[0]).write_text("# ours\n")
    imported(folder, tmp_path)


def test_a_file_that_is_gone_is_named(tmp_path):
    folder = exported(written(tmp_path / "theirs", half=False), tmp_path / "mindspore")
    names = json.loads((folder / CHECKSUMS).read_text())
    (folder / CHECKSUMS).write_text(json.dumps(names | {"tokenizer.json": "0" * 64}))
    with pytest.raises(DataError, match=r"tokenizer.json is missing, which checksums.json names"):
        imported(folder, tmp_path)
    (folder / CHECKSUMS).write_text("[1]")
    with pytest.raises(DataError, match=r"cannot read .*checksums.json"):
        imported(folder, tmp_path)


def test_a_full_disk_is_told_with_the_option_that_names_it(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("longcat.interchange.mindspore.copy_file", full)
    with pytest.raises(
        StorageError, match=r"no space left, cannot write .*out: .*; make room or choose another --output$"
    ):
        exported(written(tmp_path / "theirs"), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"theirs"}


def test_a_file_that_is_cut_off_is_named(tmp_path):
    folder = exported(written(tmp_path / "theirs", half=False), tmp_path / "mindspore")
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-100])
    with pytest.raises(DataError, match="model.safetensors is cut off"):
        imported(folder, tmp_path)


def test_the_commands(tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    theirs = written(tmp_path / "theirs", SPARSE)
    result = run("export", "--checkpoint", theirs, "-o", tmp_path / "out", "--format", "mindspore")
    assert isinstance(result.exception, ConfigError) and result.exception.exit_code == 2
    result = run("export", "--checkpoint", theirs, "-o", tmp_path / "out", "--format", "onnx")
    assert "--format 'onnx' is not supported; there are huggingface and mindspore" in str(result.exception)
    dense = written(tmp_path / "dense")
    result = run("export", "--checkpoint", dense, "-o", tmp_path / "out", "--format", "mindspore")
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'out'}\n"
    result = run("import", tmp_path / "out", "--workspace", tmp_path / "space")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "numpy, mindspore, words",
    [
        ("2.3.1", "2.10.0", "MindSpore 2.10 does not work with numpy 2.3.1; pip install 'numpy<2' beside it"),
        ("1.26.4", "2.9.0", "was checked with MindSpore 2.10, this is 2.9.0; pip install mindspore==2.10.0, or set LONGCAT_ANY_MINDSPORE=1"),
        ("1.26.4", "2.10.0rc1", "No module named 'mindspore'"),  # of the right version, as far as it goes
        ("2.3.1", None, "there is no MindSpore; pip install mindspore==2.10.0 'numpy<2'"),
        ("1.26.4", None, "there is no MindSpore; pip install mindspore==2.10.0 'numpy<2'"),
    ],
)  # fmt: skip
def test_other_versions_are_refused_in_a_line(tmp_path, numpy, mindspore, words):
    """Stand-ins of the packages say their versions."""
    (tmp_path / "numpy.py").write_text(f"__version__ = {numpy!r}\n")
    if mindspore is not None:
        metadata = tmp_path / f"mindspore-{mindspore}.dist-info/METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: mindspore\nVersion: {mindspore}\n")
    done = subprocess.run(
        [sys.executable, DATA / "mindspore" / "train_mindspore.py", "tokens"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("train_mindspore.py: ") and words in done.stderr and done.stderr.count("\n") == 1
