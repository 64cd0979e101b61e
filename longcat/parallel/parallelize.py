"""All axes of parallelism, applied to a model in plain order."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from longcat.config import ParallelConfig
from longcat.model.dispatch import Dispatcher
from longcat.model.transformer import LongcatModel
from longcat.parallel.context import DividedRows
from longcat.parallel.data import FSDPModel
from longcat.parallel.embedding import spread_tables
from longcat.parallel.expert import AllToAll, spread_experts
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.nodes import levels
from longcat.parallel.single import SingleProcess
from longcat.parallel.tensor import divide_heads
from longcat.parallel.two_level import TwoLevelAllToAll
from longcat.parallel.weights import draw_weights

ParallelModel = FSDPModel | SingleProcess
"""A model in training. A step is `zero_grad`, `accumulate` over the micro-batches, and `write_weights` once the optimizer has
moved the `weights`."""


def parallelize(
    model: LongcatModel,
    mesh: ProcessMesh,
    compute: torch.dtype,
    compiled: bool = False,
    *,
    settings: ParallelConfig | None = None,
    rows_alone: bool = False,
    seed: int | None = None,
    memory_bytes: int | None = None,
) -> ParallelModel:
    """Apply every axis of parallelism to a model, in place: tensor and context first, data parallelism last.

    Args:
        model: with the same weights in every process, or on the device `meta` with none yet.
        mesh: this process' place among the others.
        compute: type that the model computes in.
        compiled: compile each layer by itself, so that layers of one shape share the result, and the norm and the z-loss
            after the last one. Routing and attention are left out: their shapes depend on the data, or they have
            kernels of their own.
        settings: how tokens travel, and whether n-gram tables are spread; the degrees are the mesh's.
        rows_alone: spread the tables in one process, too, and leave their gradient to `SpreadTables.gradient` and the
            parameter without one.
        seed: of the initial weights of a model without any: each process draws its own part of them.
        memory_bytes: of the device, see `FSDPModel`; none means enough.

    Raises:
        ConfigError: tokens cannot travel in two levels in this layout.
    """
    settings = settings or ParallelConfig()
    if mesh.degrees.tensor > 1:
        divide_heads(model, mesh)
    elif mesh.degrees.context > 1:
        model.places = DividedRows(mesh)
    if seed is None:
        model.to(mesh.device)
    spread = settings.spreads_tables(mesh.processes, rows_alone)
    tables = spread_tables(model, mesh, compute, dense=not rows_alone) if spread else None
    if mesh.degrees.expert > 1:
        spread_experts(model, mesh.axis("expert"), dispatcher(mesh, settings))
    if compiled:
        for module in (*model.blocks, model.model.norm, model.hidden_z):
            if module is not None:
                module.compile()
    if mesh.processes == 1:
        if seed is not None:
            draw_weights(model, mesh.device, seed)
        return SingleProcess(model, compute, tables)
    sharded = FSDPModel(model, mesh, compute, memory_bytes, tables)
    if seed is not None:
        draw_weights(model, mesh.device, seed)
    return sharded


def dispatcher(mesh: ProcessMesh, settings: ParallelConfig) -> Dispatcher:
    """Make what brings tokens to the processes along the `expert` axis. Collective."""
    group = mesh.axis("expert").get_group()
    if settings.two_level:
        devices = settings.devices_per_node or int(os.environ.get("LOCAL_WORLD_SIZE", mesh.processes))
        found = levels(dist.get_process_group_ranks(group), mesh.rank, devices)
        if found is not None:
            groups = ("experts across nodes", found.across), ("experts within a node", found.within)
            # groups of their own, so as not to queue behind weights or rows
            across, within = (mesh.groups.get(name) or mesh.open(name, ranks) for name, ranks in groups)
            return TwoLevelAllToAll(across, within, settings.chunks)
    return AllToAll(group, settings.chunks)
