"""Norm and clipping of gradients that are spread over processes, each element counted once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from longcat.parallel.axes import SQUARES, VIEWS, Kind, Quantity
from longcat.parallel.embedding import SpreadTables
from longcat.parallel.mesh import ProcessMesh

_KINDS = {axis.name: kind for kind, view in VIEWS.items() for axis in view}
"""Kind of a parameter that is spread over an axis."""
Gradients = dict[Kind, list[Tensor]]
"""This process' parts of the gradients, by the kind of parameter."""


def own_parts(parameters: Iterable[nn.Parameter], tables: SpreadTables | None = None) -> Gradients:
    """Collect this process' parts of the gradients, of the parameters that have one and of `tables` that have rows alone."""
    parts: Gradients = {kind: [] for kind in SQUARES}
    for parameter in parameters:
        if parameter.grad is not None:
            parts[_kind(parameter)].append(_local(parameter.grad))
    if tables is not None and tables.gradient is not None and not tables.dense:
        parts["table"].append(tables.gradient.values)
    return parts


def squared_norms(gradients: Gradients, mesh: ProcessMesh) -> dict[Quantity, Tensor]:
    """Return this process' part of the squared gradient norm, for each kind of parameter.

    Args:
        gradients: this process' parts.
        mesh: sums the parts. Kinds whose parts are summed over the same processes are taken together, under one name.

    Returns:
        fp32 scalars; the same names in every process.
    """
    together: dict[int, Quantity] = {}
    parts: dict[Quantity, list[Tensor]] = {}
    for kind, name in SQUARES.items():
        name = together.setdefault(id(mesh.sum_over(name)), name)
        parts.setdefault(name, []).extend(gradients[kind])
    return {name: get_total_norm(of).to(mesh.device).square() for name, of in parts.items()}


@torch.no_grad()
def clip(gradients: Gradients, norm: float, limit: float) -> None:
    """Scale gradients down, in place, so that their norm, which is `norm` now, does not exceed `limit`."""
    if norm > limit:
        for parts in gradients.values():
            for gradient in parts:
                gradient.mul_(limit / norm)


def _kind(parameter: nn.Parameter) -> Kind:
    axes = parameter.device_mesh.mesh_dim_names if isinstance(parameter, DTensor) else None
    kinds = [_KINDS[name] for name in axes or () if name in _KINDS]
    return kinds[0] if kinds else "dense"


def _local(gradient: Tensor) -> Tensor:
    """Return this process' part of a gradient."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
