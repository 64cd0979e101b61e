"""A training step under a layout of every axis on emulated NPUs is that of one process on a CPU."""

import os
from pathlib import Path

import pytest
import torch

from longcat.provenance import ROOT
from tests.emulator.launch import torchrun
from tests.emulator.layouts import LAYOUTS
from tests.parallel.training import compare

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(900)]
PROGRAM = Path(__file__).with_name("layouts.py")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of each layout; a group of processes is started once for all layouts of its size."""
    folder, output = tmp_path_factory.mktemp("layouts"), {}
    path = f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}"  # the emulator's own hook is on it
    for processes in sorted({degrees.processes for degrees, _ in LAYOUTS.values()}):
        kind = "cpu" if processes == 1 else "npu"
        output[processes] = torchrun(processes, PROGRAM, kind, folder, seconds=400, PYTHONPATH=path)[1][-2000:]
    found = {path.stem: torch.load(path, weights_only=False) for path in folder.glob("*.pt")}
    failed = "\n".join(path.read_text() for path in folder.glob("*.txt"))
    return found, f"{failed}\n{output}"


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one process"])
def test_a_step_on_npus_is_that_of_one_process_on_a_cpu(outcomes, layout):
    found, output = outcomes
    assert "one process" in found, output
    assert layout in found, output
    compare(found[layout], found["one process"], gradients=1e-5, numbers=1e-5, weights=1e-5)
