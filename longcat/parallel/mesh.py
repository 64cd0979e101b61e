"""The processes of a training run as a grid of two axes: `data` replicates the experts, `expert` spreads them.

Everything but the routed experts is data-parallel over the whole grid.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from longcat.accelerator import Accelerator


@dataclass(frozen=True)
class ProcessMesh:
    """This process' place among the others."""

    rank: int
    processes: int
    device: torch.device
    world: DeviceMesh
    """All processes, one axis."""
    data: DeviceMesh
    """Processes with the same experts."""
    expert: DeviceMesh
    """Processes that hold one set of experts between them."""


def join(accelerator: Accelerator, expert_parallel: int, timeout_s: float) -> ProcessMesh:
    """Meet the other processes that torchrun started, and open and try out every group that training uses.

    A group that is first used in the middle of a step would wait without the limit given here, so each is warmed up.
    """
    device = accelerator.activate(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(accelerator.backend, timeout=timedelta(seconds=timeout_s))
    rank, processes = dist.get_rank(), dist.get_world_size()
    grid = init_device_mesh(
        accelerator.kind, (processes // expert_parallel, expert_parallel), mesh_dim_names=("data", "expert")
    )
    mesh = ProcessMesh(rank, processes, device, grid._flatten("world"), grid["data"], grid["expert"])
    for axis in (mesh.world, mesh.data, mesh.expert):
        probe = torch.ones(1, device=device)
        dist.all_reduce(probe, group=axis.get_group())
        if int(probe) != axis.size():
            raise RuntimeError(f"rank {rank}: the processes disagree about axis {axis.mesh_dim_names}")
    return mesh


def leave() -> None:
    """Close the groups."""
    if dist.is_initialized():
        dist.destroy_process_group()
