"""Muon: momentum with an orthogonalised direction, for matrices and stacks of matrices.

Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the update's scale,
0.2 sqrt(max(rows, columns)), is Moonlight's (arXiv 2502.16982, eq. 4), so that AdamW's learning rate fits both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
OpenGroup = Callable[[tuple[int, ...]], dist.ProcessGroup]
"""Opens a group of these ranks, or finds one; each of them calls it, and no other."""
Holders = Callable[[Tensor], tuple[int, ...]]
"""The ranks that hold the same part of a parameter as this process, in ascending order."""

WithState = Callable[[Tensor], AbstractContextManager[None]]
"""Makes sure that a parameter's state is on the device for a while."""


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Replace the singular values of each matrix by values near 1, by five Newton-Schulz steps.

    Args:
        matrices: `[..., rows, columns]`.
        dtype: type of the products; bf16 is exact enough.

    Returns:
        `[..., rows, columns]` of that type. A matrix of zeros stays zero.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.to(dtype)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(dtype)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two dimensions, or of three where the first one stacks matrices (experts).

    Parameters may be sharded over processes: a stack along its first dimension, so that each process has whole matrices of
    it, and every matrix along its own two, over one axis of processes or several; they may also be replicated. Momentum is laid out in the same way. Each
    matrix is orthogonalised by one process, its owner. The parts of all cut matrices of a shape travel to their owners in
    one all-to-all, and the updates back in another; copies get theirs by an all-gather. Owners take turns, over all
    shapes. `dtype` is the type of the matrix products, and of what travels: bf16 without hardware support costs several
    times the rest of the step. `open_group` opens, or finds, the processes of these ranks, where several axes cut a matrix;
    `holders` says who holds a copy, where a parameter's own mesh does not.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.bfloat16,
        open_group: OpenGroup | None = None,
        holders: Holders | None = None,
    ) -> None:
        self.dtype = dtype
        self.with_state: WithState = lambda _: nullcontext()
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        open_group = None if open_group is None else cache(open_group)
        self._cuts: dict[Tensor, Cut | None] = {}
        self._copies: dict[Tensor, Copies | None] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                self._cuts[parameter] = cut_of(parameter, open_group)
                self._copies[parameter] = (
                    copies_of(parameter)
                    if holders is None or open_group is None
                    else copies_among(holders(parameter), open_group)
                )
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. Collective, where parameters are sharded."""
        assert closure is None
        dealt = 0
        for group in self.param_groups:
            alike: dict[tuple[tuple[int, ...], Cut | None, Copies | None], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    key = tuple(parameter.shape), self._cuts[parameter], self._copies[parameter]
                    alike.setdefault(key, []).append(parameter)
            for (_, cut, copies), parameters in alike.items():
                dealt += self._update(parameters, group, cut, copies, dealt)

    def _update(
        self, parameters: list[Tensor], group: dict[str, Any], cut: Cut | None, copies: Copies | None, dealt: int
    ) -> int:
        """Update parameters of one shape, orthogonalising their matrices in one batch; returns how many had an owner."""
        directions = []
        for parameter in parameters:
            gradient, momentum = _local(parameter.grad), _local(self.state[parameter]["momentum"])
            with self.with_state(parameter):
                momentum.lerp_(gradient, 1 - group["momentum"])
                directions.append(gradient.lerp(momentum, group["momentum"]).to(self.dtype))
        stacked = torch.stack(directions)
        del directions
        parts = stacked.flatten(0, -3)  # [matrices, own rows, own columns]
        if copies is None:
            updates = self._orthogonalised(parts, cut, dealt)
        else:
            own = parts[copies.first(dealt) :: copies.number]
            updates = copies.share(self._orthogonalised(own, cut, dealt // copies.number), len(parts), dealt)
        rows, columns = parameters[0].shape[-2:]
        step = -group["lr"] * 0.2 * max(rows, columns) ** 0.5
        for parameter, update in zip(parameters, updates.view_as(stacked), strict=True):
            weights = _local(parameter)
            weights.mul_(1 - group["lr"] * group["weight_decay"])
            weights.add_(update, alpha=step)
        return 0 if cut is None else len(parts)

    def _orthogonalised(self, parts: Tensor, cut: Cut | None, dealt: int) -> Tensor:
        return orthogonalise(parts, self.dtype) if cut is None else orthogonalise_by_owners(parts, cut, dealt)


class Part(NamedTuple):
    """A part of a matrix."""

    rows: range
    columns: range

    @property
    def numbers(self) -> int:
        """How many there are in it."""
        return len(self.rows) * len(self.columns)

    def of(self, matrices: Tensor) -> Tensor:
        """Return this part of matrices `[..., rows, columns]`, as a view."""
        return matrices[..., self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]

    def cut(self, columns: bool, pieces: int, place: int) -> Part:
        """Cut into equal pieces, rounded up, along one dimension, as torch shards tensors; the last ones have what is left."""
        whole = self.columns if columns else self.rows
        share = -(-len(whole) // pieces)
        piece = whole[min(place * share, len(whole)) : min((place + 1) * share, len(whole))]
        return Part(self.rows, piece) if columns else Part(piece, self.columns)


@dataclass(frozen=True)
class Cut:
    """How the matrices of a parameter are cut into parts, one for each process of a group."""

    processes: dist.ProcessGroup
    place: int
    """Of this process in the group."""
    rows: int
    """Of the whole matrix."""
    columns: int
    parts: tuple[Part, ...]
    """Of each process."""


@dataclass(frozen=True)
class Copies:
    """Processes that hold the same part of a parameter, of which each one orthogonalises some matrices for all."""

    processes: dist.ProcessGroup
    place: int
    """Of this process among them."""
    number: int

    def first(self, dealt: int) -> int:
        """The first matrix that this process takes after `dealt` were dealt out; it takes every `number`-th one."""
        return (self.place - dealt) % self.number

    def share(self, own: Tensor, matrices: int, dealt: int) -> Tensor:
        """Put together the results of all, `[matrices, ...]`, from each one's own. Collective."""
        most = -(-matrices // self.number)
        padded = own.new_zeros(most, *own.shape[1:])
        padded[: len(own)] = own
        gathered = own.new_empty(self.number * most, *own.shape[1:])
        dist.all_gather_into_tensor(gathered, padded, group=self.processes)
        by_first = gathered.view(self.number, most, *own.shape[1:]).roll(-dealt, 0)
        return by_first.transpose(0, 1).flatten(0, 1)[:matrices]


def copies_among(ranks: tuple[int, ...], open_group: OpenGroup) -> Copies | None:
    """Return the processes of these ranks, which hold the same part of a parameter; None for one. Collective, if it is new."""
    if len(ranks) == 1:
        return None
    group = open_group(ranks)
    return Copies(group, dist.get_rank(group), len(ranks))


def copies_of(parameter: Tensor) -> Copies | None:
    """Return the processes of a parameter's mesh that hold the same part of it; None if no other one does.

    Raises:
        ValueError: it is replicated along two axes of processes.
    """
    if not isinstance(parameter, DTensor):
        return None
    mesh = parameter.device_mesh
    axes = [axis for axis, of in enumerate(parameter.placements) if of.is_replicate() and mesh.size(axis) > 1]
    if not axes:
        return None
    if len(axes) > 1:
        raise ValueError(f"Muon has no exchange for copies along two axes: {parameter.placements}")
    return Copies(mesh.get_group(axes[0]), mesh.get_local_rank(axes[0]), mesh.size(axes[0]))


def cut_of(parameter: Tensor, open_group: OpenGroup | None = None) -> Cut | None:
    """Return how the matrices of a parameter are cut; None if each one is whole in a process. Collective, if it is new.

    The last axis of the parameter's mesh has cut first, and each one before it what that has left.

    Raises:
        ValueError: they are cut along two axes of processes, and nothing opens a group of these.
    """
    if not isinstance(parameter, DTensor):
        return None
    mesh, first = parameter.device_mesh, parameter.dim() - 2
    dimensions = [getattr(placement, "dim", -1) for placement in parameter.placements]  # -1: the same in all processes
    axes = [axis for axis, dimension in enumerate(dimensions) if dimension >= first and mesh.size(axis) > 1]
    if not axes:
        return None
    if len(axes) == 1:
        group = mesh.get_group(axes[0])
    elif open_group is None:
        raise ValueError(f"Muon has no group for matrices that are cut along two axes: {parameter.placements}")
    else:
        own = [slice(None) if axis in axes else mesh.get_local_rank(axis) for axis in range(mesh.ndim)]
        group = open_group(tuple(mesh.mesh[tuple(own)].flatten().tolist()))
    rows, columns = parameter.shape[-2:]
    parts = []
    for places in product(*(range(mesh.size(axis)) for axis in axes)):
        part = Part(range(rows), range(columns))
        for axis, place in reversed([*zip(axes, places, strict=True)]):
            part = part.cut(dimensions[axis] > first, mesh.size(axis), place)
        parts.append(part)
    return Cut(group, dist.get_rank(group), rows, columns, tuple(parts))


def orthogonalise_by_owners(parts: Tensor, cut: Cut, dealt: int = 0) -> Tensor:
    """Orthogonalise matrices of which each process has a part; each matrix is put together in one of them. Collective.

    Args:
        parts: `[matrices, rows, columns]`, this process' part of each.
        cut: how the matrices are cut.
        dealt: matrices that were dealt out to owners before these, so that the next ones take their turn.

    Returns:
        This process' parts of the results, of the same shape and type.
    """
    processes = len(cut.parts)
    owners = [(dealt + matrix) % processes for matrix in range(len(parts))]
    order = sorted(range(len(parts)), key=owners.__getitem__)  # by owner
    place = torch.tensor(order, dtype=torch.long, device=parts.device)
    own = owners.count(cut.place)
    to_owners = [owners.count(process) * parts.shape[1] * parts.shape[2] for process in range(processes)]
    to_own = [own * part.numbers for part in cut.parts]

    arrived = parts.new_empty(sum(to_own))
    dist.all_to_all_single(arrived, parts[place].flatten(), to_own, to_owners, group=cut.processes)
    whole = parts.new_empty(own, cut.rows, cut.columns)
    for part, piece in zip(cut.parts, arrived.split(to_own), strict=True):
        part.of(whole).copy_(piece.view(own, len(part.rows), len(part.columns)))
    results = orthogonalise(whole, parts.dtype)
    returned = torch.empty_like(parts)
    message = torch.cat([part.of(results).flatten() for part in cut.parts])
    dist.all_to_all_single(returned.view(-1), message, to_owners, to_own, group=cut.processes)
    updates = torch.empty_like(parts)
    updates[place] = returned
    return updates


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
