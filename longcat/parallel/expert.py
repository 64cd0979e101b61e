"""Expert parallelism: each process of the `expert` axis holds an equal share of the routed experts."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from longcat.model.experts import Experts


class AllToAll:
    """Sends each row to the process with its expert, computes there, and brings the output back.

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


def _exchange(rows: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup) -> Tensor:
    result: Tensor = all_to_all_single_autograd(rows.contiguous(), received, sent, group)
    return result


def spread_experts(model: nn.Module, axis: DeviceMesh) -> None:
    """Leave this process its share of every layer's experts; a checkpoint still sees all of them, by global shape."""
    for experts in (module for module in model.modules() if isinstance(module, Experts)):
        for name, parameter in list(experts.named_parameters(recurse=False)):
            # every process drew the same weights, so nothing has to be sent
            share = distribute_tensor(parameter.data, axis, [Shard(0)], src_data_rank=None)
            experts.register_parameter(name, nn.Parameter(share))
        experts.dispatcher = AllToAll(axis)
