"""Data parallelism with sharded parameters, gradients and optimizer state (FSDP2)."""

from __future__ import annotations

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from longcat.model.transformer import LongcatModel
from longcat.parallel.mesh import ProcessMesh


def shard(model: LongcatModel, mesh: ProcessMesh, compute: torch.dtype) -> None:
    """Shard every parameter over the processes that would hold a copy of it.

    Weights, gradients' sums and optimizer state are fp32; the model computes in `compute`, the router in fp32. Gradients
    are summed, not averaged: the loss is divided by the tokens of the whole batch instead, which is right for experts
    and everything else alike.
    """
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    exact = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in model.blocks:
        fully_shard(layer.mlp.experts, mesh=mesh.data, mp_policy=policy, reshard_after_forward=False)
        fully_shard(layer.mlp.router, mesh=mesh.world, mp_policy=exact, reshard_after_forward=False)
        fully_shard(layer, mesh=mesh.world, mp_policy=policy, reshard_after_forward=False)
    fully_shard(model, mesh=mesh.world, mp_policy=policy, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
