"""Programs of other people run as they are, with the CPU's losses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulator.launch import torchrun

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


FSDP = """
import os, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
if ranks > 1:
    torch.accelerator.set_device_index(rank)
    dist.init_process_group()
torch.manual_seed(0)
layer = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
model = torch.nn.Sequential(torch.nn.Embedding(50, 32), layer, torch.nn.Linear(32, 50)).to(device)
if ranks > 1:
    mesh = init_device_mesh(device.type, (ranks,))
    for part in model:
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
batches = torch.randint(0, 50, (8, 4, 17))
for batch in batches.chunk(ranks, 1)[rank].to(device):
    logits = model(batch[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    loss = loss.detach()
    if ranks > 1:
        dist.all_reduce(loss, dist.ReduceOp.AVG)
    if rank == 0:
        print(f"loss {loss.item():.6f}", flush=True)
if rank == 0:
    print("ended on", device.type, type(next(model.parameters())).__name__)
if ranks > 1:
    dist.destroy_process_group()
"""


def test_an_fsdp_program_that_names_no_device_trains_as_one_cpu_process(tmp_path):
    file = tmp_path / "fsdp.py"
    file.write_text(FSDP)
    without = {name: value for name, value in os.environ.items() if not name.startswith("ASCEND")}
    without |= {"PYTHONPATH": "", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}  # this torch alone, on the CPU
    alone = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, timeout=100, check=False, env=without
    )
    assert "ended on cpu Parameter" in alone.stdout, alone.stderr[-2000:]
    code, output = torchrun(2, file, seconds=100)
    assert code == 0, output[-3000:]
    assert "ended on npu DTensor" in output
    assert len(losses(output)) == 8
    assert losses(output) == pytest.approx(losses(alone.stdout), rel=1e-5)
