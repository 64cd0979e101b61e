"""All axes of parallelism, applied to a model in plain order."""

from __future__ import annotations

import torch

from longcat.model.transformer import LongcatModel
from longcat.parallel.data import FSDPModel
from longcat.parallel.embedding import spread_tables
from longcat.parallel.expert import spread_experts
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.single import SingleProcess

ParallelModel = FSDPModel | SingleProcess
"""A model in training. A step is `zero_grad`, `sums` and `backward` for each micro-batch, and `write_weights` once the
optimizer has moved the `weights`."""


def parallelize(
    model: LongcatModel,
    mesh: ProcessMesh,
    compute: torch.dtype,
    compiled: bool = False,
    *,
    embedding_parallel: bool = False,
    rows_alone: bool = False,
) -> ParallelModel:
    """Apply every axis of parallelism to an initialised model, in place: embedding first, data parallelism last.

    Args:
        model: with the same weights in every process.
        mesh: this process' place among the others.
        compute: type that the model computes in.
        compiled: compile each layer by itself, so that layers of one shape share the result, and the norm and the z-loss
            after the last one. Routing and attention are left out: their shapes depend on the data, or they have
            kernels of their own.
        embedding_parallel: spread the rows of the n-gram tables over the processes.
        rows_alone: leave the tables' gradient to `SpreadTables.gradient`, and the parameter without one.
    """
    model.to(mesh.device)
    tables = spread_tables(model, mesh, compute, dense=not rows_alone) if embedding_parallel else None
    if mesh.degrees.expert_parallel > 1:
        spread_experts(model, mesh.axis("expert"))
    if compiled:
        for module in (*model.blocks, model.model.norm, model.hidden_z):
            module.compile()
    if mesh.processes == 1:
        return SingleProcess(model, compute, tables)
    return FSDPModel(model, mesh, compute, tables)
