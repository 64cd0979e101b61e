"""Norm and clipping of gradients that are spread over processes, each element counted once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from longcat.parallel.axes import EXPERT, SQUARES, Kind, Quantity
from longcat.parallel.mesh import ProcessMesh

_EXPERT_AXES = {axis.name for axis in EXPERT}


def squared_norms(parameters: Sequence[nn.Parameter], mesh: ProcessMesh) -> dict[Quantity, Tensor]:
    """Return this process' part of the squared gradient norm, for each kind of parameter.

    Args:
        parameters: with a gradient.
        mesh: sums the parts. Kinds whose parts are summed over the same processes are taken together, under one name.

    Returns:
        fp32 scalars; the same names in every process.
    """
    names: dict[Kind, Quantity] = dict(SQUARES)
    if mesh.sum_over(SQUARES["expert"]) is mesh.sum_over(SQUARES["dense"]):
        names["expert"] = SQUARES["dense"]
    parts: dict[Quantity, list[Tensor]] = {name: [] for name in names.values()}
    for parameter in parameters:
        parts[names[_kind(parameter)]].append(_local(parameter.grad))
    return {name: get_total_norm(of).to(mesh.device).square() for name, of in parts.items()}


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], norm: float, limit: float) -> None:
    """Scale gradients down, in place, so that their norm, which is `norm` now, does not exceed `limit`."""
    if norm > limit:
        for parameter in parameters:
            _local(parameter.grad).mul_(limit / norm)


def _kind(parameter: nn.Parameter) -> Kind:
    spread_over = parameter.device_mesh.mesh_dim_names if isinstance(parameter, DTensor) else None
    return "expert" if _EXPERT_AXES.intersection(spread_over or ()) else "dense"


def _local(gradient: Tensor | None) -> Tensor:
    """Return this process' part of a gradient."""
    assert gradient is not None
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
