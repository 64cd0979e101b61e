"""Context parallelism: the tokens of a row divided over processes, which show one another keys of attention, and no more.

Causal attention costs a token as much as there are tokens before it, so each process along `context` has two chunks of a
row, one from each end. Along `tensor` each of the chunks is divided once more, evenly. What is exchanged are compressed
keys: per token and sublayer, kv_lora_rank + qk_rope_head_dim numbers, and index_head_dim numbers for sparse attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from longcat.model.places import WHOLE, Places, take
from longcat.model.transformer import LossSums
from longcat.parallel.mesh import ProcessMesh


class Division(NamedTuple):
    """How the tokens of a row are divided: two chunks for each place along `context`, a part of each for one along `tensor`."""

    context: int
    tensor: int

    def chunks(self, length: int, context: int) -> list[range]:
        """Return the positions of a place along `context` in a row of this length."""
        if self.context == 1:
            return [range(length)]
        size = length // (2 * self.context)
        return [range(number * size, (number + 1) * size) for number in (context, 2 * self.context - 1 - context)]

    def own(self, length: int, context: int, tensor: int) -> list[range]:
        """Return the positions of a place along both axes.

        Raises:
            ValueError: the length is not divisible.
        """
        chunks = self.chunks(length, context)
        size = len(chunks[0]) // self.tensor
        if size * self.tensor * self.context * len(chunks) != length:
            raise ValueError(
                f"a row of {length} tokens cannot be divided over {self.context} x {self.tensor} processes"
            )
        return [chunk[tensor * size : (tensor + 1) * size] for chunk in chunks]

    @lru_cache(maxsize=16)  # noqa: B019
    def pieces(self, each: int) -> tuple[tuple[range, ...], ...]:
        """Return the positions of every place, those along `tensor` next to each other, in rows of `each` tokens a place."""
        length = each * self.context * self.tensor
        return tuple(tuple(self.own(length, *place)) for place in product(range(self.context), range(self.tensor)))

    @lru_cache(maxsize=16)  # noqa: B019
    def pieces_of_heads(self, each: int) -> tuple[tuple[range, ...], ...]:
        """Return the positions of every place along `tensor` among the tokens that are the same for all, `each` a place."""
        chunks = 1 if self.context == 1 else 2
        size = each // chunks
        starts = [[(chunk * self.tensor + place) * size for chunk in range(chunks)] for place in range(self.tensor)]
        return tuple(tuple(range(start, start + size) for start in of) for of in starts)


class Exchange(NamedTuple):
    """Processes that each have some of the tokens, and where these are among all: an equal number for each process."""

    group: dist.ProcessGroup
    pieces: tuple[tuple[range, ...], ...]
    """Positions of each process' tokens, in their order."""


def gather(exchange: Exchange, own: Tensor) -> Tensor:
    """Put together what each process has for its tokens `[batch, own, ...]`: `[batch, all, ...]`. Collective."""
    processes, batch, *rest = len(exchange.pieces), own.shape[0], *own.shape[2:]
    arrived = own.new_empty(processes, *own.shape)
    dist.all_gather_into_tensor(arrived, own[None].contiguous(), group=exchange.group)
    whole = own.new_empty(batch, processes * own.shape[1], *rest)
    for pieces, part in zip(exchange.pieces, arrived, strict=True):
        for piece, tokens in zip(pieces, part.split([len(piece) for piece in pieces], dim=1), strict=True):
            whole[:, piece.start : piece.stop] = tokens
    return whole


def scatter(exchange: Exchange, parts: Tensor) -> Tensor:
    """Sum up each process' part for all tokens `[batch, all, ...]`, for own tokens `[batch, own, ...]`. Collective."""
    message = torch.stack([take(parts, pieces) for pieces in exchange.pieces])
    own = torch.empty_like(message[:1])
    dist.reduce_scatter_tensor(own, message, group=exchange.group)
    return own[0]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exchange: Exchange, own: Tensor) -> Tensor:
        ctx.exchange = exchange
        return gather(exchange, own)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, scatter(ctx.exchange, gradients[0])


@torch.compiler.disable
def gathered(exchange: Exchange, own: Tensor) -> Tensor:
    """Gather, so that gradients of all processes come back summed. Collective, and so is its backward pass."""
    whole: Tensor = _Gather.apply(exchange, own)
    return whole


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exchange: Exchange, parts: Tensor) -> Tensor:
        ctx.exchange = exchange
        return scatter(exchange, parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gather(ctx.exchange, gradients[0])


@torch.compiler.disable
def scattered(exchange: Exchange, parts: Tensor) -> Tensor:
    """Sum up and scatter, so that each part gets the gradients of all tokens. Collective, and so is its backward pass."""
    own: Tensor = _Scatter.apply(exchange, parts)
    return own


class DividedRows(Places):
    """Rows whose tokens are divided along `context`; each process has all heads."""

    def __init__(self, mesh: ProcessMesh) -> None:
        degrees = mesh.degrees
        self.division = Division(degrees.context, degrees.tensor)
        grid = degrees.grid_of("context", "tensor")
        self.place, self.place_of_heads = (grid.place(mesh.rank, axis) for axis in ("context", "tensor"))
        self.group = mesh.sum_over("row_statistics")

    @property
    def whole(self) -> Places:
        """Every process computes all tokens."""
        return WHOLE

    def own(self, length: int) -> list[range]:
        """See `Places`."""
        return self.division.own(length, self.place, self.place_of_heads)

    def heads(self, length: int) -> list[range]:
        """See `Places`."""
        return self.division.chunks(length, self.place)

    def to_rows(self, *own: Tensor) -> tuple[Tensor, ...]:
        """See `Places`."""
        exchange = Exchange(self.group, self.division.pieces(own[0].shape[1]))
        whole = gathered(exchange, own[0] if len(own) == 1 else torch.cat(own, dim=-1))
        return whole.split([of.shape[-1] for of in own], dim=-1)

    def embed(self, rows: Tensor, weight: Tensor, ahead: int = 0) -> Tensor:
        """See `Places`; words behind the row are 0."""
        wanted, behind = reaching(rows, self.own(rows.shape[1]), ahead)
        words = F.embedding(wanted, weight)
        return words if behind is None else words.masked_fill(behind[:, None], 0)

    def following(self, words: Tensor, distance: int, ahead: int) -> Tensor:
        """See `Places`."""
        runs = words.unflatten(1, (1 if self.division.context == 1 else 2, -1))
        return runs[:, :, distance : runs.shape[2] - ahead + distance].flatten(1, 2)


def reaching(rows: Tensor, runs: Sequence[range], ahead: int) -> tuple[Tensor, Tensor | None]:
    """Take runs of positions of whole rows `[batch, seq]`, each with as many more; also tell which lie behind the row."""
    if ahead == 0:
        return take(rows, runs), None
    longer = [range(run.start, run.stop + ahead) for run in runs]
    positions = torch.cat([torch.arange(run.start, run.stop, device=rows.device) for run in longer])
    return take(F.pad(rows, (0, ahead)), longer), positions >= rows.shape[1]


class _SumOfRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mesh: ProcessMesh, part: Tensor) -> Tensor:
        ctx.processes = mesh.row_processes
        return mesh.sum({"row_statistics": part})["row_statistics"]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0] * ctx.processes  # the sum of the gradients, which are the same in all processes


def statistics_of_rows(sums: LossSums, mesh: ProcessMesh) -> LossSums:
    """Sum the routers' probabilities and loads over the processes that divide the tokens of rows. Collective.

    The balance of experts is that of whole rows. A loss that is made of these sums is the same in all of the processes, so
    each has to count an equal share of it.
    """
    if mesh.row_processes == 1:
        return sums
    parts = torch.cat([sums.router_probability, sums.router_load], dim=1)
    probability, load = _SumOfRows.apply(mesh, parts).chunk(2, dim=1)
    return sums._replace(router_probability=probability, router_load=load.detach())
