"""What is agreed before rows are exchanged: how many go where, read to the host once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from longcat.model.plan import Counts, to_host


class ExchangePlan(NamedTuple):
    """Rows of one all-to-all, in the order of the processes of its group."""

    sent: list[int]
    """Rows to each process."""
    received: list[int]
    """Rows from each process."""
    arriving: Tensor
    """Rows that arrive, in their order, integer `[processes, own experts]`."""
    counts: Counts
    """The same by own expert."""

    def by_expert(self) -> Tensor:
        """Return the order that sorts the rows that arrived by expert, and for one expert by process."""
        processes, own = self.arriving.shape
        experts = torch.arange(own, device=self.arriving.device).repeat(processes)
        return experts.repeat_interleave(self.arriving.flatten(), output_size=self.counts.rows).argsort(stable=True)


def plan_exchange(counts: Tensor, group: dist.ProcessGroup) -> ExchangePlan:
    """Tell each process how many rows it gets. Collective.

    Args:
        counts: integer `[experts]`, this process' rows for each expert of the group; each process has as many experts.
        group: processes that hold the experts, in this order.
    """
    to_send = counts.view(group.size(), -1)
    arriving = torch.empty_like(to_send)
    dist.all_to_all_single(arriving, to_send.contiguous(), group=group)
    own = arriving.sum(0)
    numbers = to_host(torch.cat([to_send.sum(1), arriving.sum(1), own]))
    sent, received, host = (numbers[: group.size()], numbers[group.size() : -len(own)], numbers[-len(own) :])
    return ExchangePlan(sent, received, arriving, Counts(own, host))
