"""Run by torchrun in test_collectives: writes what was measured between two processes."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist

from longcat.accelerator import choose
from longcat.benchmark.collectives import INSIDE, measure_collectives
from longcat.parallel.axes import Degrees
from longcat.parallel.mesh import end_process, join, leave


def main(path: Path) -> None:
    mesh = join(choose("cpu"), Degrees(2), timeout_s=60)
    group = mesh.open(INSIDE, (0, 1))
    found = measure_collectives(group, choose("cpu"), mesh.device, [3, 40_001], repeats=2, scope=INSIDE)
    if mesh.rank == 0:
        path.write_text(json.dumps([asdict(one) for one in found]))
    dist.barrier()


main(Path(sys.argv[1]))
leave()
end_process()
