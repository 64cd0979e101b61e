"""An all-to-all of rows that runs while other work is done, in both passes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

WAITING = "longcat.exchange.wait"
"""Name of the region, for a profiler, in which a process waits for rows."""


class Exchange:
    """Sends rows to the processes of a group and gets as many as they send; in the backward pass the other way round.

    `start` and `wait` are the two ends of one exchange. What stands between them in the forward pass runs beside it, and
    so it does in the backward pass: autograd goes back in the opposite order, so that the gradient's exchange starts at
    `wait` and is waited for at `start`.
    """

    def __init__(self, sent: list[int], received: list[int], group: dist.ProcessGroup) -> None:
        self.sent, self.received, self.group = sent, received, group
        self._work: dist.Work | None = None
        self._outgoing: Tensor | None = None
        self._incoming: Tensor | None = None

    def start(self, rows: Tensor) -> Tensor:
        """Send the first `sent[0]` of `rows` `[n, ...]` to process 0, and so on.

        Returns the rows to come, `received[i]` from process i, which only `wait` may read.
        """
        arriving: Tensor = _Start.apply(rows, self)
        return arriving

    def wait(self, arriving: Tensor) -> Tensor:
        """Return the rows that `start` announced, once they are there."""
        arrived: Tensor = _Wait.apply(arriving, self)
        return arrived

    def set_off(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Begin to send, without autograd; returns where the rows will be."""
        self._outgoing = rows.contiguous()  # kept until it has been sent
        self._incoming = rows.new_empty(sum(received), *rows.shape[1:])
        work = dist.all_to_all_single(self._incoming, self._outgoing, received, sent, group=self.group, async_op=True)
        assert work is not None
        self._work = work
        return self._incoming

    def arrive(self) -> Tensor:
        """Wait for the rows that `set_off` began to send."""
        assert self._work is not None, "the exchange has not been started"
        assert self._incoming is not None
        wait_for(self._work)
        arrived = self._incoming
        self._work = self._outgoing = self._incoming = None
        return arrived


def wait_for(work: dist.Work) -> None:
    """Wait for a collective, in a region that a profiler shows."""
    with torch.profiler.record_function(WAITING):
        work.wait()


class _Start(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.set_off(rows, exchange.sent, exchange.received)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.exchange.arrive(), None


class _Wait(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, arriving: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        exchange.arrive()
        return arriving.view_as(arriving)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        ctx.exchange.set_off(gradient, ctx.exchange.received, ctx.exchange.sent)
        return gradient, None  # a stand-in of the right shape: the rows' gradient is what `_Start` receives
