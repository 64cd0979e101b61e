"""What the programs of an exported folder refuse: one line each, exit code 2."""

import json

import pytest
from safetensors.torch import load_file, save_file

from longcat.interchange.convert import export
from tests.interchange.test_stored import WEIGHTS, written

pytestmark = pytest.mark.timeout(1200)
NORM = "model.norm.weight"


def changed(folder):
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {NORM: weights[NORM] * 2}, folder / WEIGHTS)


def without(folder):
    weights = load_file(folder / WEIGHTS)
    save_file({name: value for name, value in weights.items() if name != NORM}, folder / WEIGHTS)
    (folder / "checksums.json").unlink()


def sparse(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"index_topk": 2048}))
    (folder / "checksums.json").unlink()


def gone(folder):
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    "change, words",
    [
        (changed, "model.safetensors was changed since it was written; export the checkpoint again, or delete checksums.json"),
        (without, f"{NORM} is missing"),
        (sparse, "config.json: index_topk: sparse attention (LongCat-2.0) is not in longcat_mindspore.py"),
        (gone, "no config.json; it is no folder of longcat export --format mindspore"),
        (lambda folder: None, "cannot read"),  # the tokens, which are not there
    ],
    ids=["changed", "missing", "sparse", "no config", "no tokens"],
)  # fmt: skip
def test_one_line(tmp_path, mindspore, change, words):
    export(written(tmp_path / "theirs", half=False), tmp_path / "exported", format_="mindspore")
    change(tmp_path / "exported")
    done = mindspore(tmp_path / "exported/train_mindspore.py", tmp_path / "tokens", fails=True)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("[WARNING]")]
    assert done.returncode == 2 and len(lines) == 1 and words in lines[0], done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--steps", "0"), "steps is 0, and has to be at least 1"),
        (("--learning-rate", "-1"), "learning_rate is -1.0, and has to be at least 0"),
        (("--learning-rate", "nan"), "learning_rate is nan, and has to be at least 0"),
        (("--stop-after", "0"), "--stop-after is 0, and has to be at least 1"),
    ],
)
def test_settings_out_of_range(tmp_path, mindspore, options, words):
    export(written(tmp_path / "theirs", half=False), tmp_path / "exported", format_="mindspore")
    done = mindspore(tmp_path / "exported/train_mindspore.py", tmp_path / "tokens", *options, fails=True)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("[WARNING]")]
    assert done.returncode == 2 and len(lines) == 1 and words in lines[0], done.stderr
