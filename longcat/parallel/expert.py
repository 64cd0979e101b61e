"""Expert parallelism: each process along the `expert` axis holds an equal number of the routed experts."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from longcat.model.dispatch import Compute, Dispatcher, Journey
from longcat.model.experts import MixtureOfExperts
from longcat.ops.permute import combine, inverse, permute
from longcat.ops.registry import OperatorSettings
from longcat.parallel.overlap import Exchange
from longcat.parallel.plan import ToExperts, chunk_sizes, count_by_chunk, plan_flat


class AllToAll:
    """Sends each row to the process that holds its expert, and brings the output back, while other work is done.

    Rows of zero-computation experts never come here.
    """

    def __init__(self, group: dist.ProcessGroup, chunks: int = 1) -> None:
        """Serve a group of processes.

        Args:
            group: processes that hold the experts, in this order.
            chunks: parts that a layer's tokens are sent in, so that the experts compute one while the next is on its way.
        """
        self.group, self.chunks = group, chunks

    def begin(
        self, tokens: Tensor, experts: Tensor, weights: Tensor, counts: Tensor, operators: OperatorSettings
    ) -> Journey:
        """See `longcat.model.dispatch.Dispatcher`."""
        sizes = chunk_sizes(len(tokens), self.chunks)
        parts = split(experts, sizes)
        plans = plan_flat(count_by_chunk(parts, counts), self.group, [part.numel() for part in parts])
        chunks = zip(split(tokens, sizes), parts, split(weights, sizes), plans, strict=True)
        return Journey([_Trip(*chunk, self.group, operators) for chunk in chunks], sizes)


class _Trip:
    def __init__(
        self,
        tokens: Tensor,
        experts: Tensor,
        weights: Tensor,
        plan: ToExperts,
        group: dist.ProcessGroup,
        operators: OperatorSettings,
    ) -> None:
        self._tokens, self._experts, self._weights, self._operators = tokens, experts, weights, operators
        self._slots = SlotExchange(plan, group)

    def start(self) -> Tensor:
        rows, self._places = self._operators.run(permute, self._tokens, self._experts, sum(self._slots.plan.rows.sent))
        return self._slots.start(rows)

    def through(self, arriving: Tensor, compute: Compute) -> Tensor:
        return self._slots.through(arriving, compute)

    def end(self, returning: Tensor, rest: Tensor) -> Tensor:
        outputs = self._slots.end(returning)
        return self._operators.run(combine, outputs, self._places, self._weights, rest)


class SlotExchange:
    """Brings rows, sorted by expert, to the processes that hold the experts, and their outputs back in the same order."""

    def __init__(self, plan: ToExperts, group: dist.ProcessGroup) -> None:
        self.plan = plan
        self._there = Exchange(plan.rows.sent, plan.rows.received, group)
        self._back = Exchange(plan.rows.received, plan.rows.sent, group)

    def start(self, rows: Tensor) -> Tensor:
        """Let the rows set off."""
        return self._there.start(rows)

    def through(self, arriving: Tensor, compute: Compute) -> Tensor:
        """Receive rows, compute this process' experts, and let the outputs set off."""
        order = self.plan.by_expert()
        outputs = compute(self._there.wait(arriving)[order], self.plan.counts)
        return self._back.start(outputs[inverse(order)])

    def end(self, returning: Tensor) -> Tensor:
        """Receive the outputs."""
        return self._back.wait(returning)


def split(tensor: Tensor, sizes: list[int]) -> list[Tensor]:
    """Cut a tensor along its first dimension; one part is the tensor itself."""
    return [tensor] if len(sizes) == 1 else list(tensor.split(sizes))


def spread_experts(model: nn.Module, axis: DeviceMesh, dispatcher: Dispatcher) -> None:
    """Keep only this process' experts of every layer, in place; checkpoints still see all of them, by global shape.

    Args:
        model: with the same weights in every process, or on the device `meta` with none yet.
        axis: processes that hold one set of experts between them; their number divides the experts of a layer.
        dispatcher: brings tokens to these processes.
    """
    for mixture in (module for module in model.modules() if isinstance(module, MixtureOfExperts)):
        mixture.dispatcher = dispatcher
        for name, parameter in list(mixture.experts.named_parameters(recurse=False)):
            # every process drew the same weights, so nothing has to be sent
            own = distribute_tensor(parameter.data, axis, [Shard(0)], src_data_rank=None)
            mixture.experts.register_parameter(name, nn.Parameter(own))
