"""Models in 16 bits, and folders that are written whole or not at all."""

import json

import numpy as np
import pytest
import torch

from longcat.artifact import Workspace
from longcat.interchange.convert import export, import_folder
from tests.interchange.test_stored import same, stored, written
from tests.mindspore.conftest import PROGRAMS


@pytest.mark.timeout(1200)
def test_types_and_failures_of_save(tmp_path, mindspore):
    export(written(tmp_path / "theirs"), tmp_path / "exported", format_="mindspore")
    mindspore(PROGRAMS / "saving.py", tmp_path)

    same(stored(tmp_path / "bf16"), stored(tmp_path / "exported"))
    back = import_folder(tmp_path / "bf16", Workspace(tmp_path / "workspace")).path / "huggingface"
    same(stored(back), stored(tmp_path / "theirs"))
    types = {".router." in name: value.dtype for name, value in stored(tmp_path / "fp16").items()}
    assert types == {True: torch.float32, False: torch.float16}
    assert json.loads((tmp_path / "fp16/config.json").read_text())["dtype"] == "float16"
    logits = np.load(tmp_path / "logits.npz")
    difference = np.abs(logits["fp16"] - logits["fp32"]).max()
    assert 0 < difference < 0.02 * np.abs(logits["fp32"]).max()

    said = json.loads((tmp_path / "said.json").read_text())
    assert said["no source"].startswith(f"cannot write {tmp_path / 'first'}: [Errno 2]")
    assert said["no room"].startswith(f"cannot write {tmp_path / 'second'}: ") and "File too large" in said["no room"]
    left = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert left == {"theirs", "exported", "bf16", "fp16", "workspace"}
