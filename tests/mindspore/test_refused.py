"""What the programs of an exported folder refuse: one line each, exit code 2."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from longcat.interchange.convert import export
from tests.interchange.test_stored import WEIGHTS, written
from tests.mindspore.conftest import PROGRAMS

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


SETTINGS = [
    (("--steps", "0"), "steps is 0, and has to be at least 1"),
    (("--learning-rate", "-1"), "learning_rate is -1.0, and has to be at least 0"),
    (("--learning-rate", "nan"), "learning_rate is nan, and has to be at least 0"),
    (("--learning-rate", "inf"), "learning_rate is inf, and has to be finite"),
    (("--epsilon", "0"), "epsilon is 0.0, and has to be more than 0"),
    (("--beta1", "1"), "beta1 is 1.0, and has to be below 1"),
    (("--beta2", "1"), "beta2 is 1.0, and has to be below 1"),
    (("--final-learning-rate-fraction", "1.5"), "final_learning_rate_fraction is 1.5, and has to be at most 1"),
    (("--balance-groups", "0"), "balance_groups is 0, and has to be at least 1"),
    (("--balance-groups", "3"), "balance_groups is 3, which does not divide the model's 4 experts"),
    (("--target-ffn-experts", "3.5"), "target_ffn_experts is 3.5, and a token has 3 experts in all"),
    (("--stop-after", "0"), "--stop-after is 0, and has to be at least 1"),
    (("--learning-rate", "1e30", "--warmup-steps", "0", "--max-skipped-steps", "2", "--pynative"), "2 steps in a row up to step 3 were not finite"),
    (("--output", "there"), "there is there already; choose another folder"),
    (("--output", "file/out"), "cannot write file/out: [Errno 20] Not a directory"),
    (("--metrics", "nowhere/metrics.jsonl"), "cannot write nowhere/metrics.jsonl: No such file or directory"),
]  # fmt: skip
ROPE = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 16}
FOLDERS = [
    ("model.safetensors.index.json", {}, "model.safetensors.index.json: weight_map is missing"),
    ("model.safetensors.index.json", {"weight_map": {NORM: 3}}, "cannot read"),
    ("config.json", {"rope_parameters": ROPE}, "config.json: rope_parameters.rope_type: linear is not in"),
    ("config.json", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters: missing factor, original_max_position_embeddings"),
    ("config.json", {"max_position_embeddings": 8}, "tokens: rows have 16 tokens, more than max_position_embeddings 8"),
]  # fmt: skip


def tokens(folder, rows=20):
    """Write rows as preprocessing does."""
    folder.mkdir()
    np.save(folder / "train-0.npy", np.random.default_rng(0).integers(3, 500, (rows, 17)).astype(np.uint16))
    np.save(folder / "train-0.spans.npy", np.stack([np.arange(rows), np.zeros(rows), np.zeros(rows)], 1).astype(int))
    shard = {"file": "train-0.npy", "spans_file": "train-0.spans.npy"}
    index = {"sequence_length": 16, "vocabulary_size": 512, "splits": {"train": {"shards": [shard]}}}
    (folder / "index.json").write_text(json.dumps(index))


def test_settings_and_folders_in_one_process(tmp_path, mindspore):
    folder = tmp_path / "exported"
    export(written(tmp_path / "theirs", half=False), folder, format_="mindspore")
    tokens(tmp_path / "tokens")
    tokens(tmp_path / "nothing", rows=0)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    asked = [([str(tmp_path / "tokens"), *options], words) for options, words in SETTINGS]
    asked.append(([str(tmp_path / "nothing")], "nothing: has no rows to train on"))
    for number, (name, values, words) in enumerate(FOLDERS):
        other = tmp_path / f"other-{number}"
        shutil.copytree(folder, other)
        (other / "checksums.json").unlink()
        there = json.loads((other / name).read_text()) if (other / name).exists() else {}
        (other / name).write_text(json.dumps(there | values))
        asked.append(([str(tmp_path / "tokens"), "--model", str(other)], words))
    (tmp_path / "asked.json").write_text(json.dumps([arguments for arguments, _ in asked]))
    mindspore(PROGRAMS / "refusals.py", tmp_path)
    found = json.loads((tmp_path / "said.json").read_text())
    for (arguments, words), (code, said) in zip(asked, found, strict=True):
        assert (code, said.count("\n")) == (2, 1) and words in said, (arguments, said)
