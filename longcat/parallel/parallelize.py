"""All axes of parallelism, applied to a model in plain order."""

from __future__ import annotations

import torch

from longcat.model.transformer import LongcatModel
from longcat.parallel.data import FSDPModel
from longcat.parallel.expert import spread_experts
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.single import SingleProcess

ParallelModel = FSDPModel | SingleProcess
"""A model in training. A step is `zero_grad`, `sums` and `backward` for each micro-batch, and `write_weights` once the
optimizer has moved the `weights`."""


def parallelize(model: LongcatModel, mesh: ProcessMesh, compute: torch.dtype, compiled: bool = False) -> ParallelModel:
    """Spread an initialised model over the mesh, in place: experts first, then everything by data parallelism.

    With `compiled` each layer is compiled on its own, so that alike layers share the result, and so are the norm and the
    z-loss after them; routing and attention,
    whose shapes depend on the data or which have kernels of their own, are left out.
    """
    model.to(mesh.device)
    if mesh.expert.size() > 1:
        spread_experts(model, mesh.expert)
    if compiled:
        for module in (*model.blocks, model.model.norm, model.hidden_z):
            module.compile()
    return SingleProcess(model, compute) if mesh.processes == 1 else FSDPModel(model, mesh, compute)
