"""Norm and clipping of gradients that are spread over processes, each element counted once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from longcat.parallel.axes import EXPERT, SQUARES, Kind, Quantity
from longcat.parallel.mesh import ProcessMesh

_EXPERT_AXES = {axis.name for axis in EXPERT}


class LocalGradient(NamedTuple):
    """This process' part of a parameter's gradient."""

    kind: Kind
    """Kind of the parameter, which says over which processes the parts are spread."""
    part: Tensor


def local_gradients(parameters: Iterable[nn.Parameter]) -> list[LocalGradient]:
    """List this process' parts of the gradients of all parameters that have one."""
    return [LocalGradient(_kind(of), _local(of.grad)) for of in parameters if of.grad is not None]


def squared_norms(gradients: Sequence[LocalGradient], mesh: ProcessMesh) -> dict[Quantity, Tensor]:
    """Return this process' part of the squared gradient norm, for each kind of parameter.

    Args:
        gradients: all that this process has parts of.
        mesh: sums the squares. Kinds that are summed over the same processes are taken together, under one name.

    Returns:
        fp32 scalars; the same names in every process.
    """
    names: dict[Kind, Quantity] = dict(SQUARES)
    if mesh.sum_over(SQUARES["expert"]) is mesh.sum_over(SQUARES["dense"]):
        names["expert"] = SQUARES["dense"]
    parts: dict[Quantity, list[Tensor]] = {name: [] for name in names.values()}
    for gradient in gradients:
        parts[names[gradient.kind]].append(gradient.part)
    return {name: get_total_norm(of).to(mesh.device).square() for name, of in parts.items()}


@torch.no_grad()
def clip(gradients: Sequence[LocalGradient], norm: float, limit: float) -> None:
    """Scale gradients down, in place, so that their norm, which is `norm` now, does not exceed `limit`."""
    if norm > limit:
        for gradient in gradients:
            gradient.part.mul_(limit / norm)


def _kind(parameter: nn.Parameter) -> Kind:
    spread_over = parameter.device_mesh.mesh_dim_names if isinstance(parameter, DTensor) else None
    return "expert" if _EXPERT_AXES.intersection(spread_over or ()) else "dense"


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
