"""Run by torchrun: a training step under each layout of as many processes, on the device that is named; rank 0 writes what came of it.

torchrun --nproc-per-node N layouts.py DEVICE FOLDER
"""

import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from longcat.accelerator import choose
from longcat.parallel.axes import Degrees
from longcat.parallel.mesh import ProcessMesh
from tests.parallel.training import EVERYTHING, Case, train

MASKED = ("training.mask_documents=true", *EVERYTHING, "model.num_layers=2")
CASE = Case(rows=4, overrides=MASKED, padded=True)
LAYOUTS = {
    "one process": (Degrees(1), ()),
    "replicate": (Degrees(2, replicate=2), ()),
    "shard": (Degrees(2), ()),
    "expert": (Degrees(2, expert=2), ("parallel.chunks=2",)),
    "pipeline": (Degrees(2, pipeline=2), ()),
    "embedding": (Degrees(2), ("parallel.embedding=true",)),
    "context": (Degrees(2, context=2), ()),
    "tensor": (Degrees(2, tensor=2), ()),
    "shard x expert, in two levels": (
        Degrees(4, expert=4),
        ("parallel.two_level=true", "parallel.devices_per_node=2"),
    ),
}
"""Degrees, and settings that go with them."""


def main(kind: str, folder: Path) -> None:
    """Train under every layout that has as many processes as there are here."""
    accelerator = choose(kind)
    device = accelerator.activate(int(os.environ["LOCAL_RANK"]))
    timeout = timedelta(seconds=120)
    dist.init_process_group(accelerator.backend, timeout=timeout)
    for name, (degrees, settings) in LAYOUTS.items():
        if degrees.processes != dist.get_world_size():
            continue
        case = Case(CASE.rows, (*CASE.overrides, *settings), padded=CASE.padded)
        try:
            outcome = train(ProcessMesh(degrees, dist.get_rank(), device, timeout), case)
        except Exception:
            (folder / f"{name}-{dist.get_rank()}.txt").write_text(traceback.format_exc())
            break  # the other ranks are in a collective
        if dist.get_rank() == 0:
            torch.save(outcome, folder / f"{name}.pt")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
