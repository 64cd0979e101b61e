"""Programs of other people run as they are, with the CPU's losses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from launch import torchrun

pytestmark = pytest.mark.emulator
PROGRAMS = Path(__file__).with_name("programs")


def losses(output):
    return [float(number) for number in re.findall(r"^loss ([\d.]+)$", output, re.MULTILINE)]


def run(program, *arguments):
    command = [sys.executable, str(PROGRAMS / program), *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory):
    return losses(run("gpt.py", "--device", "cpu", "--checkpoint", tmp_path_factory.mktemp("cpu") / "model.pt"))


def test_a_gpt(tmp_path, on_the_cpu):
    found = losses(run("gpt.py", "--checkpoint", tmp_path / "npu.pt"))
    assert len(found) == 17
    assert found == pytest.approx(on_the_cpu, rel=1e-5)
    assert found[-1] < found[0] - 0.5


def test_a_gpt_in_mixed_precision(on_the_cpu):
    found = losses(run("gpt.py", "--amp"))
    assert found == pytest.approx(on_the_cpu[:16], rel=0.02)
    assert found != on_the_cpu[:16]


def test_transformers_trainer(tmp_path):
    results = {place: run("hf_trainer.py", place, tmp_path / place) for place in ("cpu", "npu")}
    assert "device npu" in results["npu"]
    assert len(losses(results["npu"])) == 6
    assert losses(results["npu"]) == pytest.approx(losses(results["cpu"]), rel=1e-4)


DDP = """
import os, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group()  # torch finds the backend for the device itself
local_rank = int(os.environ["LOCAL_RANK"])
torch.accelerator.set_device_index(local_rank)
device = torch.accelerator.current_accelerator().type
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(8, 1).to(device), device_ids=[local_rank])
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
for step in range(20):
    x = torch.randn(4, 8, device=device)
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
dist.all_reduce(loss, dist.ReduceOp.AVG)
if dist.get_rank() == 0:
    backend = dist.group.WORLD._get_backend(torch.device(device))
    print(type(backend).__name__, model.device.type, loss.item() < 8)
dist.destroy_process_group()
"""


def test_a_ddp_program_that_names_no_device(tmp_path):
    file = tmp_path / "ddp.py"
    file.write_text(DDP)
    code, output = torchrun(2, file, seconds=100)
    assert code == 0, output[-3000:]
    assert re.search("ProcessGroupHCCL npu True", output), output[-2000:]
