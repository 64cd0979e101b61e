"""`longcat.accelerator` with the real torch_npu."""

import os
import subprocess
import sys

import pytest
import torch

from longcat.accelerator import choose

pytestmark = pytest.mark.emulator


@pytest.fixture
def npu():
    found = choose("auto")
    found.activate(1)
    yield found
    found.activate(0)


def test_facts(npu):
    assert (npu.kind, npu.backend, npu.count, npu.memory_bytes) == ("npu", "hccl", 8, 64 << 30)
    assert npu.name == "Ascend910B2 (emulated)"
    assert npu.supports_bf16
    assert torch.empty(1, device=npu.kind).device == npu.device(1)


def test_streams_and_marks(npu):
    begin = npu.mark()
    main = torch.npu.current_stream()
    with npu.stream():
        assert torch.npu.current_stream() != main
        product = torch.ones(64, 64, device="npu") @ torch.ones(64, 64, device="npu")
    npu.synchronize()
    assert torch.npu.current_stream() == main
    assert 0 < npu.seconds(begin, npu.mark()) < 60
    assert product.sum().item() == 64**3


def test_autocast(npu):
    x = torch.ones(4, 4, device="npu")
    with npu.autocast(torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
    assert (x @ x).dtype == torch.float32


def test_memory_is_counted(npu):
    before = npu.peak_memory_bytes()
    block = torch.empty(before + (64 << 20), dtype=torch.uint8, device="npu")
    assert npu.peak_memory_bytes() >= before + block.nbytes - (2 << 20)


def test_a_profiler_is_made_and_leaves_the_work_alone(npu, tmp_path, monkeypatch):
    """The emulated device has nothing to tell it; what it writes lands in the working directory."""
    monkeypatch.chdir(tmp_path)
    with npu.profiler():
        assert torch.ones(8, 8, device="npu").sum().item() == 64


def test_torch_npu_without_cann_is_named_and_does_no_harm(tmp_path):
    """This environment as it is outside of the emulator, where importing torch alone fails."""
    gone = ("ASCEND_", "LD_LIBRARY_PATH", "PYTHONPATH", "TORCH_DEVICE_BACKEND")  # the last is set by torch_npu
    variables = {name: value for name, value in os.environ.items() if not name.startswith(gone)}

    def longcat(*arguments):
        command = [sys.executable, "-m", "longcat.cli", *arguments, "--workspace", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=variables)

    doctor = longcat("doctor")
    assert doctor.returncode == 2
    assert "problem: torch_npu is installed, CANN is not set up: source the set_env.sh" in doctor.stdout
    assert "problem: torch_npu is installed, the Ascend driver is not" in doctor.stdout
    asked = longcat("pretrain", "--preset", "smoke", "--set", "accelerator=npu")
    assert asked.returncode == 2
    (line,) = asked.stderr.splitlines()
    assert line.startswith("error: accelerator npu: torch_npu cannot be imported, CANN or the driver may be missing")
    assert not (tmp_path / "tokens").exists(), "it is told before anything is made"
