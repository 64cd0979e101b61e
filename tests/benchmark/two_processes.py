"""Run by torchrun in test_collectives: writes what was measured."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist

from longcat.accelerator import choose
from longcat.benchmark.collectives import INSIDE, measure_collectives
from longcat.parallel.mesh import join, leave

mesh = join(choose("cpu"), 1, timeout_s=60)
group = dist.group.WORLD
assert group is not None
found = measure_collectives(group, choose("cpu"), mesh.device, [3, 40_001], repeats=2, scope=INSIDE)
if mesh.rank == 0:
    Path(sys.argv[1]).write_text(json.dumps([asdict(one) for one in found]))
leave()
