"""What is agreed before rows are exchanged: how many go where, for all chunks in one message and one read of the host."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from longcat.model.plan import Counts, balanced_slots, count, routed_share, to_host


class Exchanged(NamedTuple):
    """Rows of one all-to-all, in the order of the processes of its group."""

    sent: list[int]
    """Rows to each process."""
    received: list[int]
    """Rows from each process."""


class ToExperts(NamedTuple):
    """An all-to-all between the processes that hold the experts, and what its rows are."""

    rows: Exchanged
    """How many they are."""
    arriving: Tensor
    """Rows that arrive, in their order, integer `[processes, own experts]`."""
    counts: Counts
    """The same by own expert."""

    def by_expert(self) -> Tensor:
        """Return the order that sorts the rows that arrived by expert, and for one expert by process."""
        processes, own = self.arriving.shape
        experts = torch.arange(own, device=self.arriving.device).repeat(processes)
        return experts.repeat_interleave(self.arriving.flatten(), output_size=self.counts.rows).argsort(stable=True)


class TwoLevels(NamedTuple):
    """The plan of an exchange in two levels."""

    across: Exchanged
    """Tokens to each node, once each, and from each node."""
    within: ToExperts
    """Their slots, between the processes of a node."""


def chunk_sizes(tokens: int, chunks: int) -> list[int]:
    """Return the tokens of each chunk; they differ by one at most."""
    return [tokens // chunks + (number < tokens % chunks) for number in range(chunks)]


def count_by_chunk(experts: Sequence[Tensor], counts: Tensor) -> Tensor:
    """Count the slots of each routed expert in each chunk, `[chunks, experts]`; their sum `counts` is known."""
    if len(experts) == 1:
        return counts[None]
    routed = len(counts)
    return torch.stack([count(chunk.clamp_max(routed), routed + 1)[:routed] for chunk in experts])


def plan_flat(counts: Tensor, group: dist.ProcessGroup, slots: Sequence[int]) -> list[ToExperts]:
    """Tell each process how many rows it gets in each chunk. Collective.

    Args:
        counts: integer `[chunks, experts]`, this process' rows for each expert of the group.
        group: processes that hold the experts, equally many each, in this order.
        slots: of each chunk, those of zero-computation experts included.
    """
    chunks, experts = counts.shape
    each = [balanced_slots(of, experts) for of in slots]
    to_one = [experts // group.size() * rows for rows in each]
    to_send = counts.view(chunks, group.size(), -1).transpose(0, 1)  # [process, chunk, its expert]
    arriving = _exchange(to_send, group)
    own = arriving.sum(0)
    host = _read(
        (to_send.sum(2), [to_one] * group.size()),
        (arriving.sum(2), [to_one] * group.size()),
        (own, [[rows * group.size()] * own.shape[1] for rows in each]),
    )
    sent, received, rows = next(host), next(host), next(host)
    return [
        ToExperts(
            Exchanged(_column(sent, chunk), _column(received, chunk)),
            arriving[:, chunk],
            Counts(own[chunk], rows[chunk]),
        )
        for chunk in range(chunks)
    ]


def plan_two_levels(
    counts: Tensor,
    copies: Tensor,
    across: dist.ProcessGroup,
    within: dist.ProcessGroup,
    slots: Sequence[int],
    top_k: int,
) -> list[TwoLevels]:
    """Tell the processes how many tokens they get from other nodes and how many slots from their own, in each chunk. Collective.

    Args:
        counts: integer `[chunks, experts]`, this process' slots for each expert.
        copies: integer `[chunks, nodes]`, this process' tokens with an expert on each node.
        across: processes with this one's place on every node, which hold experts in this order.
        within: processes of this node.
        slots: of each chunk, those of zero-computation experts included.
        top_k: slots of a token.
    """
    chunks, nodes, devices = len(counts), across.size(), within.size()
    each = [balanced_slots(of, counts.shape[1]) for of in slots]
    reached = 1 - (1 - 1 / nodes) ** (top_k * routed_share())
    to_node = [math.ceil(of / top_k * reached) for of in slots]
    by_node = counts.view(chunks, nodes, -1)
    to_send = torch.cat([copies[..., None], by_node], -1).transpose(0, 1)  # [node, chunk, 1 + experts of the node]
    passing = _exchange(to_send, across)
    passed = passing[..., 1:].sum(0).view(chunks, devices, -1).transpose(0, 1)  # [device, chunk, its expert]
    arriving = _exchange(passed, within)
    own = arriving.sum(0)
    to_one = [rows * nodes * own.shape[1] for rows in each]
    host = _read(
        (to_send[..., 0], [to_node] * nodes),
        (passing[..., 0], [to_node] * nodes),
        (passed.sum(2), [to_one] * devices),
        (arriving.sum(2), [to_one] * devices),
        (own, [[rows * nodes * devices] * own.shape[1] for rows in each]),
    )
    sent, received, passed_on, arrived, rows = (next(host) for _ in range(5))
    return [
        TwoLevels(
            Exchanged(_column(sent, chunk), _column(received, chunk)),
            ToExperts(
                Exchanged(_column(passed_on, chunk), _column(arrived, chunk)),
                arriving[:, chunk],
                Counts(own[chunk], rows[chunk]),
            ),
        )
        for chunk in range(chunks)
    ]


def _exchange(numbers: Tensor, group: dist.ProcessGroup) -> Tensor:
    arriving = torch.empty_like(numbers, memory_format=torch.contiguous_format)
    dist.all_to_all_single(arriving, numbers.contiguous(), group=group)
    return arriving


def _read(*tables: tuple[Tensor, list[list[int]]]) -> Iterator[list[list[int]]]:
    """Read tables `[n, m]` in one transfer; yields each one's rows. With each goes what a balanced routing has there."""
    numbers = to_host(
        torch.cat([table.flatten() for table, _ in tables]),
        lambda: [number for _, rows in tables for row in rows for number in row],
    )
    start = 0
    for table, _ in tables:
        height, width = table.shape
        yield [numbers[start + row * width : start + (row + 1) * width] for row in range(height)]
        start += height * width


def _column(table: list[list[int]], number: int) -> list[int]:
    return [row[number] for row in table]
