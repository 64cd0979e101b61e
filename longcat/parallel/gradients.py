"""Norm and clipping of gradients that are spread over processes, each element counted once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from longcat.parallel.axes import HOLDERS, PARTS, SHARDS, SQUARES, Kind, Quantity
from longcat.parallel.embedding import SpreadTables
from longcat.parallel.mesh import ProcessMesh

_SPREAD_OVER: dict[str, Kind] = {
    SHARDS["expert"]: "expert",
    "expert": "expert",
    SHARDS["table"]: "table",
    "tensor": "divided",
}
"""Kind of a parameter that is spread over an axis; any other is "dense"."""

TOGETHER = 33_554_432
"""Numbers of gradients that are summed in one message, at most, unless one parameter has more."""


class LocalGradient(NamedTuple):
    """This process' part of a parameter's gradient."""

    kind: Kind
    """Kind of the parameter, which says over which processes the parts are spread."""
    part: Tensor
    counted: bool = True
    """Whether the norm counts it here: of a parameter with copies in several pipeline stages, one is counted."""


def local_gradients(
    parameters: Iterable[nn.Parameter], tables: SpreadTables | None = None, copies: Set[nn.Parameter] = frozenset()
) -> list[LocalGradient]:
    """List this process' parts of the gradients of all parameters that have one, and of `tables` that have rows alone.

    The norm does not count `copies`, which another process counts.
    """
    parts = [LocalGradient(_kind(of), _local(of.grad), of not in copies) for of in parameters if of.grad is not None]
    if tables is not None and tables.gradient is not None and not tables.dense:
        parts.append(LocalGradient("table", tables.gradient.values))
    return parts


@torch.no_grad()
def sum_parts(parameters: Iterable[nn.Parameter], mesh: ProcessMesh) -> None:
    """Sum the gradients that are parts by tokens over the processes along `PARTS`, in place, a step's together. Collective.

    They are those of all parameters that each of these processes holds, but for the routed experts, which have seen the
    tokens of all processes of theirs.
    """
    group = mesh.group(PARTS)
    if group.size() == 1:
        return
    parts = [_local(of.grad) for of in parameters if of.grad is not None and _kind(of) == "dense"]
    while parts:
        ends = accumulate(part.numel() for part in parts)
        count = max(1, sum(end <= TOGETHER for end in ends))
        together, parts = parts[:count], parts[count:]
        message = torch.cat([part.flatten() for part in together])
        dist.all_reduce(message, group=group)
        for part, summed in zip(together, message.split([part.numel() for part in together]), strict=True):
            part.copy_(summed.view_as(part))


def squared_norms(gradients: Sequence[LocalGradient], mesh: ProcessMesh) -> dict[Quantity, Tensor]:
    """Return this process' part of the squared gradient norm, for each kind of parameter.

    Args:
        gradients: all that this process has parts of.
        mesh: sums the squares. Kinds that are summed over the same processes are taken together, under one name.

    Returns:
        fp32 scalars; the same names in every process.
    """
    together: dict[int, Quantity] = {}
    names = {kind: together.setdefault(id(mesh.sum_over(name)), name) for kind, name in SQUARES.items()}
    parts: dict[Quantity, list[Tensor]] = {name: [] for name in names.values()}
    for gradient in gradients:
        if gradient.counted:
            parts[names[gradient.kind]].append(gradient.part)
    return {name: get_total_norm(of).to(mesh.device).square() for name, of in parts.items()}


@torch.no_grad()
def clip(gradients: Sequence[LocalGradient], norm: float, limit: float) -> None:
    """Scale gradients down, in place, so that their norm, which is `norm` now, does not exceed `limit`."""
    if norm > limit:
        for gradient in gradients:
            gradient.part.mul_(limit / norm)


def holders(parameter: Tensor, mesh: ProcessMesh) -> tuple[int, ...]:
    """Return the ranks that hold the same part of a parameter, this process' own included, in ascending order."""
    axes = HOLDERS[_kind(parameter)]
    return mesh.degrees.grid_of(*axes).group(mesh.rank, *axes) if axes else (mesh.rank,)


def _kind(parameter: Tensor) -> Kind:
    axes = (isinstance(parameter, DTensor) and parameter.device_mesh.mesh_dim_names) or ()
    return next((kind for axis, kind in _SPREAD_OVER.items() if axis in axes), "dense")


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
