"""An exchange of tokens in two levels: over the slow link between nodes once for each node, then to the experts' processes.

A token with eight experts on two nodes crosses once instead of about four times; the sum of its outputs comes back, already
weighted. `longcat.costs.exchange` has the formula.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from longcat.model.dispatch import Compute, Journey
from longcat.ops.permute import combine, inverse, permute
from longcat.ops.registry import OperatorSettings
from longcat.parallel.expert import SlotExchange, split
from longcat.parallel.overlap import Exchange
from longcat.parallel.plan import TwoLevels, chunk_sizes, count_by_chunk, plan_two_levels


class TwoLevelAllToAll:
    """Sends each token once to every node that has one of its experts; the process there passes it on to the experts.

    Tokens that have no routed expert, and slots of zero-computation experts, are not sent.
    """

    def __init__(self, across: dist.ProcessGroup, within: dist.ProcessGroup, chunks: int = 1) -> None:
        """Serve the processes of several nodes, which have the same number of devices.

        Args:
            across: processes with this one's place on every node; the experts are spread over nodes in this order.
            within: processes of this node, over which its experts are spread in this order.
            chunks: parts that a layer's tokens are sent in.
        """
        self.across, self.within, self.chunks = across, within, chunks

    def begin(
        self, tokens: Tensor, experts: Tensor, weights: Tensor, counts: Tensor, operators: OperatorSettings
    ) -> Journey:
        """See `longcat.model.dispatch.Dispatcher`."""
        nodes = self.across.size()
        asked = torch.zeros(len(tokens), nodes + 1, dtype=torch.bool, device=tokens.device)
        asked = asked.scatter_(1, (experts // (len(counts) // nodes)).clamp_max(nodes), True)[:, :nodes]
        sizes = chunk_sizes(len(tokens), self.chunks)
        parts, asked_parts = split(experts, sizes), split(asked, sizes)
        copies = torch.stack([part.sum(0) for part in asked_parts])
        slots = [part.numel() for part in parts]
        by_chunk = count_by_chunk(parts, counts)
        plans = plan_two_levels(by_chunk, copies, self.across, self.within, slots, experts.shape[1])
        node_experts = len(counts) // nodes
        chunks = zip(split(tokens, sizes), parts, split(weights, sizes), asked_parts, plans, strict=True)
        return Journey(
            [_Trip(*chunk, node_experts, self.across, self.within, operators) for chunk in chunks],
            sizes,
        )


class _Trip:
    def __init__(
        self,
        tokens: Tensor,
        experts: Tensor,
        weights: Tensor,
        asked: Tensor,
        plan: TwoLevels,
        node_experts: int,
        across: dist.ProcessGroup,
        within: dist.ProcessGroup,
        operators: OperatorSettings,
    ) -> None:
        self._tokens, self._experts, self._weights, self._asked = tokens, experts, weights, asked
        self._node_experts, self._plan, self._operators = node_experts, plan, operators
        sent, received = plan.across
        # to the link in this order: what is small does not wait behind what is large
        self._numbers, self._shares, self._there = (Exchange(sent, received, across) for _ in range(3))
        self._back = Exchange(received, sent, across)
        self._slots = SlotExchange(plan.within, within)

    def start(self) -> Tensor:
        nodes = self._asked.shape[1]
        node = torch.arange(nodes, device=self._asked.device)
        choices = torch.where(self._asked, node, nodes)
        copies, self._places = self._operators.run(permute, self._tokens, choices, sum(self._plan.across.sent))
        order = inverse(self._places.long())[: len(copies)]
        owners, first = order // nodes, (order % nodes)[:, None] * self._node_experts
        numbers = self._experts.index_select(0, owners) - first
        elsewhere = (numbers < 0) | (numbers >= self._node_experts)
        self._arriving_numbers = self._numbers.start(numbers.masked_fill(elsewhere, self._node_experts).int())
        self._arriving_shares = self._shares.start(self._weights.index_select(0, owners))
        return self._there.start(copies)

    def through(self, arriving: Tensor, compute: Compute) -> Tensor:
        run = self._operators.run
        numbers = self._numbers.wait(self._arriving_numbers).long()
        shares = self._shares.wait(self._arriving_shares)
        tokens = self._there.wait(arriving)
        rows, places = run(permute, tokens, numbers, sum(self._plan.within.rows.sent))
        outputs = self._slots.end(self._slots.through(self._slots.start(rows), compute))
        return self._back.start(run(combine, outputs, places, shares, torch.zeros_like(tokens)))

    def end(self, returning: Tensor, rest: Tensor) -> Tensor:
        sums = self._back.wait(returning)
        return self._operators.run(combine, sums, self._places, torch.ones_like(self._asked, dtype=torch.float32), rest)
