"""Expert parallelism: each process along the `expert` axis holds an equal number of the routed experts."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from longcat.model.dispatch import Compute, Journey
from longcat.model.experts import MixtureOfExperts
from longcat.ops.permute import combine, inverse, permute
from longcat.ops.registry import OperatorSettings
from longcat.parallel.plan import ExchangePlan, plan_exchange


class AllToAll:
    """Sends each row to the process that holds its expert, and brings the output back.

    Rows of zero-computation experts never come here.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def begin(
        self, tokens: Tensor, experts: Tensor, weights: Tensor, counts: Tensor, operators: OperatorSettings
    ) -> Journey:
        """See `longcat.model.dispatch.Dispatcher`."""
        return _Journey(self.group, tokens, experts, weights, plan_exchange(counts, self.group), operators)


class _Journey:
    def __init__(
        self,
        group: dist.ProcessGroup,
        tokens: Tensor,
        experts: Tensor,
        weights: Tensor,
        plan: ExchangePlan,
        operators: OperatorSettings,
    ) -> None:
        self._group, self._weights, self._plan, self._operators = group, weights, plan, operators
        rows, self._places = operators.run(permute, tokens, experts, sum(plan.sent))
        self._rows = _exchange(rows, plan.received, plan.sent, group)

    def compute(self, experts: Compute) -> None:
        plan = self._plan
        order = plan.by_expert()
        outputs = experts(self._rows[order], plan.counts)[inverse(order)]
        self._rows = _exchange(outputs, plan.sent, plan.received, self._group)

    def end(self, rest: Tensor) -> Tensor:
        return self._operators.run(combine, self._rows, self._places, self._weights, rest)


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
        model: with the same weights in every process.
        axis: processes that hold one set of experts between them; their number divides the experts of a layer.
    """
    dispatcher = AllToAll(axis.get_group())
    for mixture in (module for module in model.modules() if isinstance(module, MixtureOfExperts)):
        mixture.dispatcher = dispatcher
        for name, parameter in list(mixture.experts.named_parameters(recurse=False)):
            # every process drew the same weights, so nothing has to be sent
            own = distribute_tensor(parameter.data, axis, [Shard(0)], src_data_rank=None)
            mixture.experts.register_parameter(name, nn.Parameter(own))
