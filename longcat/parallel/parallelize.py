"""All axes of parallelism, applied to a model in plain order."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from longcat.accelerator import compiler
from longcat.config import ParallelConfig
from longcat.costs.stages import STAGES_EACH, stages_of
from longcat.model.dispatch import Dispatcher
from longcat.model.part import Part
from longcat.model.transformer import LongcatModel
from longcat.ops.fusion import fuse_from_now_on
from longcat.parallel.context import DividedRows
from longcat.parallel.data import FSDPModel, Sharded
from longcat.parallel.embedding import spread_tables
from longcat.parallel.expert import AllToAll, spread_experts
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.nodes import levels
from longcat.parallel.pipeline import PipelineModel, Stage
from longcat.parallel.single import SingleProcess
from longcat.parallel.tensor import divide_heads
from longcat.parallel.two_level import TwoLevelAllToAll
from longcat.parallel.weights import draw_weights

ParallelModel = FSDPModel | SingleProcess | PipelineModel
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
    """Apply every axis of parallelism to a model, in place: the pipeline's parts first, data parallelism last.

    Args:
        model: with the same weights in every process, or on the device `meta` with none yet.
        mesh: this process' place among the others.
        compute: type that the model computes in.
        compiled: compile each layer by itself, so that layers of one shape share the result, and the norm and the z-loss
            after the last one. Routing and attention are left out: their shapes depend on the data, or they have
            kernels of their own.
        settings: how tokens travel, whether n-gram tables are spread, and a pipeline's schedule; the degrees are the mesh's.
        rows_alone: spread the tables in one process, too, and leave their gradient to `SpreadTables.gradient` and the
            parameter without one.
        seed: of the initial weights of a model without any: each process draws its own part of them.
        memory_bytes: of the device, see `Sharded`; none means enough.

    Raises:
        ConfigError: tokens cannot travel in two levels in this layout.
    """
    settings = settings or ParallelConfig()
    if seed is None:
        model.to(mesh.device)
    parts = [model] if mesh.degrees.pipeline == 1 else _stages(model, mesh, settings)
    for part in parts:
        if mesh.degrees.tensor > 1:
            divide_heads(part, mesh)
        elif mesh.degrees.context > 1:
            part.places = DividedRows(mesh)
    spread = settings.spreads_tables(mesh.degrees.stage, rows_alone)
    tables = spread_tables(parts[0], mesh, compute, dense=not rows_alone) if spread else None
    if mesh.degrees.expert > 1:
        brings = dispatcher(mesh, settings)
        for part in parts:
            spread_experts(part, mesh.axis("expert"), brings)
    if compiled:
        backend = compiler(mesh.device.type)
        if mesh.device.type == "cuda":
            fuse_from_now_on()
        for part in parts:
            for module in (*part.blocks, part.model.norm, part.hidden_z):
                if module is not None:
                    module.compile(backend=backend)
    if mesh.processes == 1:
        if seed is not None:
            draw_weights(model, mesh.device, seed)
        return SingleProcess(model, compute, tables)
    memory = None if memory_bytes is None else memory_bytes // len(parts)
    own = [tables if part.part.first else None for part in parts]
    sharded = [Sharded(part, mesh, compute, memory, of) for part, of in zip(parts, own, strict=True)]
    if seed is not None:
        for part in parts:
            draw_weights(part, mesh.device, seed)
    if mesh.degrees.pipeline > 1:
        return PipelineModel(sharded, mesh, compute, settings.schedule, tables)
    return FSDPModel(sharded[0], tables)


def _stages(model: LongcatModel, mesh: ProcessMesh, settings: ParallelConfig) -> list[LongcatModel]:
    """Cut this process' stages of the pipeline out of a model."""
    place, processes = mesh.degrees.grid_of("pipeline").place(mesh.rank, "pipeline"), mesh.degrees.pipeline
    stages = processes * STAGES_EACH[settings.schedule]
    numbers = stages_of(settings.schedule, place, processes)
    return [Stage(model, Part.stage(model.config, number, stages)) for number in numbers]


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
