"""The CPU in the place of CUDA, for programs that ask for whatever accelerator there is."""

import json
import os
import subprocess
import sys

from longcat.provenance import ROOT

PROGRAM = """
import json
import torch
from longcat.port.witness.stand_in import install

install()
device = torch.accelerator.current_accelerator()
torch.accelerator.set_device_index(torch.accelerator.current_device_index())
net = torch.nn.Linear(2, 1).to(f"{device}:1").to(1)
batches = torch.utils.data.DataLoader(torch.eye(2), batch_size=2, pin_memory=True)
total = sum(net(batch.to(device)).sum() for batch in batches)
torch.accelerator.synchronize()
print(json.dumps([
    torch.accelerator.is_available(), torch.accelerator.device_count(), device.type, torch.accelerator.current_device_index(),
    total.isclose(net.weight.sum() + 2 * net.bias.sum()).item(), torch.accelerator.memory_allocated(),
]))
"""


def test_a_program_that_asks_for_an_accelerator_gets_the_cpu_as_cuda():
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False, env=variables
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [True, 2, "cuda", 1, True, 0]


ATTENTION = """
import json
import torch
import torch.distributed as dist
from torch.distributed.tensor import Shard, distribute_tensor
from longcat.port.witness.stand_in import install

install()
dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
mesh = dist.init_device_mesh("cuda", (1,))
whole = [torch.randn(2, 4, 6, 8, requires_grad=True) for _ in range(3)]
found = []
for mask in (None, torch.randn(2, 4, 6, 6)):
    options = {"is_causal": mask is None, "scale": 0.3}
    expected = torch.nn.functional.scaled_dot_product_attention(*whole, attn_mask=mask, **options)
    gradients = torch.autograd.grad(expected.square().sum(), whole)
    for axis in (0, 1, 2):
        parts = [distribute_tensor(one.detach(), mesh, [Shard(axis)]).requires_grad_() for one in whole]
        masks = mask if mask is None else distribute_tensor(mask, mesh, [Shard(axis)])
        attended = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=masks, **options)
        attended.square().sum().backward()
        pairs = [(attended, expected), *zip([one.grad for one in parts], gradients)]
        found.append([attended.placements[0].is_shard(), all(one.full_tensor().equal(other) for one, other in pairs)])
print(json.dumps(found))
"""


def test_distributed_tensors_attend_apart_by_rows_or_heads():
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", ATTENTION], capture_output=True, text=True, timeout=120, check=False, env=variables
    )
    assert run.returncode == 0, run.stderr
    sharded, whole = [True, True], [False, True]
    assert json.loads(run.stdout) == [sharded, sharded, whole, whole, whole, whole]
