"""Embedding parallelism: each process holds an equal part of the rows of the n-gram tables, and fetches those it needs.

The tables are most of a model with n-grams, and a batch reads few of their rows. So they are not gathered: row numbers go
to the processes that hold the rows, and rows come back. Gradients go the same way and arrive complete at the one process
that holds a row, where they are added up; they are neither averaged nor summed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from longcat.model.ngram import Tables
from longcat.model.plan import shapes_only, to_host
from longcat.model.transformer import LongcatModel
from longcat.parallel.mesh import ProcessMesh


class RowGradient(NamedTuple):
    """Gradient of the rows of this process that were looked up by any process; that of all others is 0."""

    rows: Tensor
    """Their numbers among this process' rows, int64 `[n]`, ascending, each once."""
    values: Tensor
    """Their gradients, fp32 `[n, width]`."""


class _Asked(NamedTuple):
    """One exchange: who asked whom for which rows."""

    place: Tensor
    """Of each lookup among this process' distinct rows, int64 `[lookups]`."""
    rows: Tensor
    """Rows that this process was asked for, by the process that asked, as numbers among its own; int64."""
    sent: list[int]
    """Distinct rows that this process asks each process for."""
    received: list[int]
    """Rows that each process asks this one for."""


class SpreadTables:
    """The n-gram tables of a model, a part of their rows in each process.

    A micro-batch is one exchange for all branches: every distinct row is asked for once. The counts of rows are the one
    thing that the host reads; rows travel while it goes on. In the backward pass gradients are added up by row before they
    are sent, and travel until the next micro-batch is differentiated, or the optimizer wants them.

    Attributes:
        gradient: of the rows that were looked up, once the last micro-batch of a step is `finish`ed; none where the
            tables rest.
        read: gives the present rows of these numbers among this process' own; optimizers that move rows late replace it.
    """

    def __init__(
        self,
        tables: Tables,
        compute: torch.dtype,
        dense: bool,
        group: dist.ProcessGroup | None = None,
        gradient_group: dist.ProcessGroup | None = None,
    ) -> None:
        """Take over the lookups of `tables`, whose weight is laid out already.

        Args:
            tables: a part of the model.
            compute: type that rows are computed with, and travel in; their gradients travel in fp32.
            dense: whether the parameter gets its gradient as one tensor, zeros included, as most optimizers want it.
            group: the processes that hold the rows between them; none means one.
            gradient_group: the same ones, for gradients: the next lookups would wait behind them.
        """
        self._tables = tables
        self.compute, self.dense = compute, dense
        self.group, self.gradient_group = group, gradient_group or group
        self.processes = 1 if group is None else group.size()
        self.share = -(-tables.num_embeddings // self.processes)
        """Rows of each process but the last ones, which have what is left."""
        self.first = 0 if group is None else dist.get_rank(group) * self.share
        self.read: Callable[[Tensor], Tensor] = lambda rows: nn.functional.embedding(rows, self.local)
        self.gradient: RowGradient | None = None
        self._travelling: tuple[dist.Work | None, Tensor, Tensor, Tensor] | None = None
        tables.source = self

    @property
    def weight(self) -> nn.Parameter:
        """The tables, fp32, a parameter of the model; with several processes a DTensor sharded along the rows."""
        return cast(nn.Parameter, self._tables.weight)

    @property
    def local(self) -> Tensor:
        """The rows of this process, fp32 `[rows, width]`."""
        weight: Tensor = self.weight
        with torch.no_grad():  # in inference mode a DTensor can't be detached
            return weight.to_local() if isinstance(weight, DTensor) else weight.detach()

    def start(self, rows: Tensor) -> Callable[[], Tensor]:
        """Begin to fetch the rows of these int64 numbers `[...]`. Collective.

        Returns:
            A function that waits for the rows and returns them, `[..., width]` in the type of computation.
        """
        asked = self._ask(rows.flatten())
        with torch.no_grad():
            found = self.read(asked.rows).to(self.compute)
        arrived, work = _exchange(found, asked.sent, asked.received, self.group)

        def wait() -> Tensor:
            if work is not None:
                work.wait()
            fetched: Tensor = _Fetched.apply(self.weight, arrived, asked, self)
            return fetched.view(*rows.shape, -1)

        return wait

    def drop_gradient(self) -> None:
        """Forget what has been gathered for a step."""
        self.gradient, self._travelling = None, None

    def finish(self) -> None:
        """Wait for the gradients of the last micro-batch; after it the gradient of the step is there."""
        self._collect()
        if self.dense and self.gradient is not None:
            whole = torch.zeros_like(self.local).index_copy_(0, *self.gradient)
            self.weight.grad = _like(whole, self.weight)

    def _ask(self, numbers: Tensor) -> _Asked:
        """Send the distinct ones of row numbers `[lookups]` to the processes that hold them."""
        ordered, order = numbers.sort()
        new = torch.ones_like(ordered, dtype=torch.bool)
        new[1:] = ordered[1:] != ordered[:-1]
        among = new.cumsum(0) - 1
        place = torch.empty_like(among).index_copy_(0, order, among)
        distinct = torch.empty_like(ordered).index_copy_(0, among, ordered)  # their number is not known here yet
        to_send = ordered.new_zeros(self.processes).index_add_(0, ordered // self.share, new.long())
        to_receive = torch.empty_like(to_send)
        if self.group is None:
            to_receive.copy_(to_send)
        else:
            dist.all_to_all_single(to_receive, to_send, group=self.group)
        # where there are shapes only: as if every lookup were of another row
        each = [-(-len(numbers) // self.processes)] * self.processes
        counts = to_host(torch.cat([to_send, to_receive]), lambda: each * 2)
        sent, received = counts[: self.processes], counts[self.processes :]
        asked, work = _exchange(distinct[: sum(sent)], received, sent, self.group)
        if work is not None:
            work.wait()
        return _Asked(place, asked - self.first, sent, received)

    def _send_gradients(self, gradient: Tensor, asked: _Asked) -> None:
        """Begin to send the gradients `[lookups, width]` of looked-up rows to where the rows are."""
        self._collect()
        sums = torch.zeros(sum(asked.sent), gradient.shape[1], device=gradient.device)
        sums.index_add_(0, asked.place, gradient.float())
        arrived, work = _exchange(sums, asked.received, asked.sent, self.gradient_group)
        self._travelling = work, asked.rows, arrived, sums

    def _collect(self) -> None:
        """Wait for gradients on their way, and add them to those of the micro-batches before."""
        if self._travelling is None:
            return
        work, rows, values, _ = self._travelling
        if work is not None:
            work.wait()
        if self.gradient is not None:
            rows, values = torch.cat([self.gradient.rows, rows]), torch.cat([self.gradient.values, values])
        if shapes_only(rows):
            distinct, place = rows, torch.arange(len(rows), device=rows.device)
        else:
            distinct, place = rows.unique(return_inverse=True)
        sums = values.new_zeros(len(distinct), values.shape[1]).index_add_(0, place, values)
        self.gradient, self._travelling = RowGradient(distinct, sums), None


class _Fetched(torch.autograd.Function):
    """Rows as they were asked for; their gradients are sent to where the rows are."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, arrived: Tensor, asked: _Asked, tables: SpreadTables) -> Tensor:
        ctx.asked, ctx.tables = asked, tables
        return arrived[asked.place]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        ctx.tables._send_gradients(gradients[0], ctx.asked)
        return None, None, None, None


def spread_tables(model: LongcatModel, mesh: ProcessMesh, compute: torch.dtype, dense: bool) -> SpreadTables | None:
    """Keep only this process' rows of the n-gram tables, in place; checkpoints still see all of them, by global shape.

    The rows are spread over all processes of the first pipeline stage, which look up different rows; all others only open
    groups as these do, as torch tells groups of the same processes apart by their number. Collective.

    Args:
        model: or the first part of it that this process has, with the same weights in every process, or on the device `meta` with none yet.
        mesh: this process' place among the others.
        compute: type that the model computes in.
        dense: see `SpreadTables`.

    Returns:
        The tables; none for a model without.
    """
    if model.config.ngram is None:
        return None
    axis, groups = mesh.table_shards, []
    if mesh.degrees.stage > 1:
        # rows have groups of their own, so as not to queue behind weights
        ranks = tuple(dist.get_process_group_ranks(axis.get_group()))
        groups = [mesh.open(name, ranks) for name in ("embedding", "embedding gradients")]
    if model.model.ngram_embeddings is None:
        return None
    tables = model.model.ngram_embeddings.tables
    if not groups:
        return SpreadTables(tables, compute, dense)
    # every process drew the same weights, so nothing has to be sent
    tables.weight = nn.Parameter(distribute_tensor(tables.weight.data, axis, [Shard(0)], src_data_rank=None))
    return SpreadTables(tables, compute, dense, *groups)


def _exchange(
    rows: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup | None
) -> tuple[Tensor, dist.Work | None]:
    """Begin to send the first `sent[0]` rows to process 0, and so on; returns the place of what will come."""
    if group is None:
        return rows, None
    arrived = rows.new_empty(sum(received), *rows.shape[1:])
    return arrived, dist.all_to_all_single(arrived, rows.contiguous(), received, sent, group=group, async_op=True)


def _like(local: Tensor, weight: Tensor) -> Tensor:
    """Give the part of this process the layout of a parameter."""
    if not isinstance(weight, DTensor):
        return local
    return DTensor.from_local(
        local, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride()
    )
