"""Expert parallelism: each process along the `expert` axis holds an equal number of the routed experts."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from longcat.model.experts import Experts


class AllToAll:
    """Send each row to the process that holds its expert, compute there, and bring the output back.

    Rows of zero-computation experts never come here.
    """

    def __init__(self, axis: DeviceMesh) -> None:
        self.group = axis.get_group()
        self.processes = axis.size()

    def __call__(self, experts: Experts, rows: Tensor, counts: Tensor) -> Tensor:
        """See `longcat.model.experts.Dispatcher`."""
        to_send = counts.view(self.processes, -1)
        to_receive = torch.empty_like(to_send)  # [source process, own expert]
        dist.all_to_all_single(to_receive, to_send.contiguous(), group=self.group)
        sent, received = to_send.sum(1).tolist(), to_receive.sum(1).tolist()

        arrived = _exchange(rows, received, sent, self.group)
        own = torch.arange(to_receive.shape[1], device=rows.device).repeat(self.processes)
        by_expert = own.repeat_interleave(to_receive.flatten()).argsort(stable=True)
        outputs = experts.compute(arrived[by_expert], to_receive.sum(0))
        return _exchange(outputs[by_expert.argsort()], sent, received, self.group)


class _Exchange(torch.autograd.Function):
    """An all-to-all of rows, whose gradient is the reverse exchange."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.received, ctx.sent, ctx.group = received, sent, group
        arrived = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(arrived, rows.contiguous(), received, sent, group=group)
        return arrived

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        returned = gradient.new_empty(sum(ctx.sent), *gradient.shape[1:])
        dist.all_to_all_single(returned, gradient.contiguous(), ctx.sent, ctx.received, group=ctx.group)
        return returned, None, None, None


def _exchange(rows: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup) -> Tensor:
    """Send the first `sent[0]` rows to process 0, and so on; returns what came, `received[i]` rows from process i."""
    arrived: Tensor = _Exchange.apply(rows, received, sent, group)
    return arrived


def spread_experts(model: nn.Module, axis: DeviceMesh) -> None:
    """Keep only this process' experts of every layer, in place; checkpoints still see all of them, by global shape.

    Args:
        model: with the same weights in every process, or on the device `meta` with none yet.
        axis: processes that hold one set of experts between them; their number divides the experts of a layer.
    """
    for experts in (module for module in model.modules() if isinstance(module, Experts)):
        for name, parameter in list(experts.named_parameters(recurse=False)):
            # every process drew the same weights, so nothing has to be sent
            own = distribute_tensor(parameter.data, axis, [Shard(0)], src_data_rank=None)
            experts.register_parameter(name, nn.Parameter(own))
        experts.dispatcher = AllToAll(axis)
