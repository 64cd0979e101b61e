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
