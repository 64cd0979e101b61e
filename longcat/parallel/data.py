"""Data parallelism with sharded parameters, gradients and optimizer state (FSDP2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from longcat.costs.memory import Freed, freed_weights
from longcat.model.experts import Experts
from longcat.model.transformer import LongcatModel
from longcat.parallel.accumulate import AllLayers
from longcat.parallel.axes import SHARDS
from longcat.parallel.embedding import SpreadTables
from longcat.parallel.mesh import ProcessMesh


class Sharded:
    """A model, or a part of one, whose parameters, gradients and optimizer state are sharded over the processes that share them.

    Weights, summed gradients and optimizer state are fp32; the model computes in `compute`, the router in fp32. Gradients
    are summed, not averaged: each loss is already divided by the count of the whole batch, over all processes, so that
    experts, which see the tokens of more processes than they are sharded over, need no other factor than the rest.

    What a forward pass has gathered stays for the backward pass, as long as it takes no more than a share of the
    device's memory; else experts, and if need be layers, are gathered a second time. Embeddings and head stay always:
    no other layer lies between their forward and backward pass. Tables whose rows are spread already are left alone.
    """

    def __init__(
        self,
        model: LongcatModel,
        mesh: ProcessMesh,
        compute: torch.dtype,
        memory_bytes: int | None = None,
        tables: SpreadTables | None = None,
    ) -> None:
        """Shard a model in place.

        Args:
            model: on the process' device, or on `meta`; its experts are spread over processes already.
            mesh: this process' place among the others.
            compute: type that the model computes in.
            memory_bytes: of the device; none means enough.
            tables: of the model, where their rows are spread.
        """
        self.model = model
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
        # not to be cast: losses of stages before are fp32, and what experts are called with is still on its way, not to be read
        as_they_are = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
        exact = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float32, cast_forward_inputs=False)
        again = gathered_again(model, compute, memory_bytes)
        inside = partial(_inside, processes=mesh.axis(SHARDS["expert"]).size())
        self._again: list[nn.Module] = []

        def shard(module: nn.Module, own: MixedPrecisionPolicy = policy) -> None:
            experts = isinstance(module, Experts)
            if ("experts" if experts else "layers") in again and module is not model:
                self._again.append(module)
            axis, placement = (mesh.expert_shards, inside) if experts else (mesh.dense_shards, None)
            _shard(module, axis, own, module in self._again, placement, None if tables is None else {tables.weight})

        for layer in model.blocks:
            shard(layer.mlp.experts, as_they_are)
            shard(layer.mlp.router, exact)
            shard(layer)
        if model.model.mtp is not None:
            shard(model.model.mtp)
        shard(model, as_they_are)

    def gather(self) -> None:
        """Gather what stays gathered after a forward pass; `reshard` frees it.

        What the first forward pass gathers under `torch.inference_mode` could not be trained afterwards.
        """
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.unshard()
                if module in self._again:
                    module.reshard()


class FSDPModel(AllLayers):
    """A model of which every process computes all layers, and holds shards of their parameters; see `ParallelModel`."""

    def __init__(self, sharded: Sharded, tables: SpreadTables | None = None) -> None:
        self.sharded, self.model, self.tables = sharded, sharded.model, tables

    @property
    def weights(self) -> LongcatModel:
        """The fp32 weights, by the model's names: FSDP casts them as they are gathered."""
        return self.model

    def gather(self) -> None:
        """Gather what stays gathered after a forward pass; `reshard` frees it."""
        self.sharded.gather()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.model.zero_grad()
        if self.tables is not None:
            self.tables.drop_gradient()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Accumulate a micro-batch's gradients; they are summed over processes with the `last` one of a batch."""
        cast(FSDPModule, self.model).set_requires_gradient_sync(last)
        loss.backward()
        if last and self.tables is not None:
            self.tables.finish()

    def write_weights(self) -> None:
        """Do nothing: the weights that the optimizer has moved are the model's own."""


def gathered_again(model: LongcatModel, compute: torch.dtype, memory_bytes: int | None) -> frozenset[Freed]:
    """Choose what is freed after the forward pass and gathered a second time for the backward pass, see `freed_weights`.

    Args:
        model: not yet sharded.
        compute: type that weights are gathered in.
        memory_bytes: of the device; none means enough.
    """
    whole = _numbers(model)
    if (ngrams := model.model.ngram_embeddings) is not None and ngrams.tables.source is not None:
        whole -= _numbers(ngrams.tables)  # looked up row by row
    experts = sum(_numbers(layer.mlp.experts) for layer in model.blocks)
    return freed_weights(whole, experts, compute.itemsize, math.inf if memory_bytes is None else memory_bytes)


def _numbers(module: nn.Module) -> int:
    """Count the numbers of a module's parameters that this process gathers: of its own experts only."""
    return sum(of.to_local().numel() if isinstance(of, DTensor) else of.numel() for of in module.parameters())


def _inside(stack: nn.Parameter, processes: int) -> Shard:
    """Cut every matrix of a stack, so that each process has an equal part however few there are; rows before columns.

    FSDP cuts evenly there or not at all; what divides neither is cut into whole matrices.
    """
    return Shard(next((dimension for dimension in (1, 2) if stack.shape[dimension] % processes == 0), 0))


def _shard(
    module: nn.Module,
    axis: DeviceMesh,
    policy: MixedPrecisionPolicy,
    again: bool,
    placement: Callable[[nn.Parameter], Shard] | None = None,
    but: set[nn.Parameter] | None = None,
) -> None:
    sharded = fully_shard(
        module,
        mesh=axis,
        mp_policy=policy,
        reshard_after_forward=again,
        shard_placement_fn=placement,
        ignored_params=but,
    )
    if axis.size() > 1:  # with one process there is nothing to sum, and a factor would cost a copy of the gradients
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def reshard(model: nn.Module) -> None:
    """Free the gathered parameters after a forward pass without a backward one, which would have freed them."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
