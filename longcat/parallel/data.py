"""Data parallelism with sharded parameters, gradients and optimizer state (FSDP2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard

from longcat.model.context import Phase
from longcat.model.transformer import LongcatModel, LossSums
from longcat.parallel.axes import SHARDS
from longcat.parallel.embedding import SpreadTables
from longcat.parallel.mesh import ProcessMesh


class FSDPModel:
    """A model whose parameters, gradients and optimizer state are sharded, each over the processes that share it.

    Weights, summed gradients and optimizer state are fp32; the model computes in `compute`, the router in fp32. Gradients
    are summed, not averaged: each loss is already divided by the count of the whole batch, over all processes, so that
    experts, which see the tokens of more processes than they are sharded over, need no other factor than the rest.
    Tables whose rows are spread already are left alone.
    """

    def __init__(
        self, model: LongcatModel, mesh: ProcessMesh, compute: torch.dtype, tables: SpreadTables | None = None
    ) -> None:
        self.model, self.tables = model, tables
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
        exact = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for layer in model.blocks:
            _shard(
                layer.mlp.experts,
                mesh.expert_shards,
                policy,
                partial(_inside, processes=mesh.axis(SHARDS["expert"]).size()),
            )
            _shard(layer.mlp.router, mesh.dense_shards, exact)
            _shard(layer, mesh.dense_shards, policy)
        if model.model.mtp is not None:
            _shard(model.model.mtp, mesh.dense_shards, policy)
        _shard(model, mesh.dense_shards, policy, but=None if tables is None else {tables.weight})

    @property
    def weights(self) -> LongcatModel:
        """The fp32 weights, by the model's names: FSDP casts them as they are gathered."""
        return self.model

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.model.zero_grad()
        if self.tables is not None:
            self.tables.drop_gradient()

    def sums(
        self,
        tokens: Tensor,
        targets: Tensor,
        phase: Phase,
        documents: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> LossSums:
        """Sum the loss terms of a micro-batch, see `LongcatModel.sums`."""
        return self.model.sums(tokens, targets, phase, documents, padding)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Accumulate a micro-batch's gradients; they are summed over processes with the `last` one of a batch."""
        cast(FSDPModule, self.model).set_requires_gradient_sync(last)
        loss.backward()
        if last and self.tables is not None:
            self.tables.finish()

    def write_weights(self) -> None:
        """Do nothing: the weights that the optimizer has moved are the model's own."""


def _inside(stack: nn.Parameter, processes: int) -> Shard:
    """Cut every matrix of a stack, so that each process has an equal part however few there are; rows before columns.

    FSDP cuts evenly there or not at all; what divides neither is cut into whole matrices.
    """
    return Shard(next((dimension for dimension in (1, 2) if stack.shape[dimension] % processes == 0), 0))


def _shard(
    module: nn.Module,
    axis: DeviceMesh,
    policy: MixedPrecisionPolicy,
    placement: Callable[[nn.Parameter], Shard] | None = None,
    but: set[nn.Parameter] | None = None,
) -> None:
    sharded = fully_shard(
        module,
        mesh=axis,
        mp_policy=policy,
        reshard_after_forward=False,
        shard_placement_fn=placement,
        ignored_params=but,
    )
    if axis.size() > 1:  # with one process there is nothing to sum, and a factor would cost a copy of the gradients
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def unshard(model: nn.Module) -> None:
    """Gather all parameters of a model, if they are sharded; the forward pass then gathers nothing."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.unshard()


def reshard(model: nn.Module) -> None:
    """Free the gathered parameters after a forward pass without a backward one, which would have freed them."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
