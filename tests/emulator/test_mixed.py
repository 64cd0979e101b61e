"""Training over an emulated NPU group and a CPU group with unequal parts of each batch equals training in one process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.emulator.launch import torchrun

pytestmark = pytest.mark.emulator
PROGRAM = Path(__file__).with_name("programs") / "mixed.py"


def test_two_kinds_of_device_with_unequal_parts(tmp_path):
    code, output = torchrun(4, PROGRAM, tmp_path / "mixed", seconds=240)
    assert code == 0, output[-3000:]
    subprocess.run([sys.executable, PROGRAM, tmp_path / "alone"], check=True, timeout=240)
    alone = torch.load(tmp_path / "alone.0", weights_only=True)
    ranks = [torch.load(tmp_path / f"mixed.{rank}", weights_only=True) for rank in range(4)]
    assert [rank["device"] for rank in ranks] == ["npu", "npu", "cpu", "cpu"]
    assert sum(rank["rows"] for rank in ranks) == 9
    assert ranks[0]["rows"] > ranks[2]["rows"]
    assert len(alone["losses"]) == 4 and alone["losses"][0] > alone["losses"][-1]
    for rank in ranks:
        assert rank["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        for name, tensor in alone["weights"].items():
            torch.testing.assert_close(
                rank["weights"][name], tensor, rtol=1e-4, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
            )
    for name, tensor in ranks[0]["weights"].items():  # one kind of device does not move away from itself
        assert torch.equal(tensor, ranks[1]["weights"][name]), name
