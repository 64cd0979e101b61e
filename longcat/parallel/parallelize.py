"""All axes of parallelism, applied to a model in plain order."""

from __future__ import annotations

import torch

from longcat.model.transformer import LongcatModel
from longcat.parallel.data import FSDPModel
from longcat.parallel.expert import spread_experts
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.single import SingleProcess
from longcat.parallel.weights import draw_weights

ParallelModel = FSDPModel | SingleProcess
"""A model in training. A step is `zero_grad`, `sums` and `backward` for each micro-batch, and `write_weights` once the
optimizer has moved the `weights`."""


def parallelize(
    model: LongcatModel,
    mesh: ProcessMesh,
    compute: torch.dtype,
    compiled: bool = False,
    seed: int | None = None,
    memory_bytes: int | None = None,
) -> ParallelModel:
    """Apply every axis of parallelism to a model, in place: experts first, data parallelism last.

    Args:
        model: with the same weights in every process, or on the device `meta` with none yet.
        mesh: this process' place among the others.
        compute: type that the model computes in.
        compiled: compile each layer by itself, so that layers of one shape share the result, and the norm and the z-loss
            after the last one. Routing and attention are left out: their shapes depend on the data, or they have
            kernels of their own.
        seed: of the initial weights of a model without any: each process draws its own part of them.
        memory_bytes: of the device, see `FSDPModel`; none means enough.
    """
    if seed is None:
        model.to(mesh.device)
    if mesh.degrees.expert_parallel > 1:
        spread_experts(model, mesh.axis("expert"))
    if compiled:
        for module in (*model.blocks, model.model.norm, model.hidden_z):
            module.compile()
    if mesh.processes == 1:
        if seed is not None:
            draw_weights(model, mesh.device, seed)
        return SingleProcess(model, compute)
    sharded = FSDPModel(model, mesh, compute, memory_bytes)
    if seed is not None:
        draw_weights(model, mesh.device, seed)
    return sharded
