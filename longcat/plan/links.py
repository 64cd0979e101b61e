"""Time of what travels along an axis: which ranks share it, how many of them are in one node, and by which links."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from longcat.parallel.axes import Degrees
from longcat.plan.device import Device

Level = Literal["inside a node", "between nodes"]


@dataclass(frozen=True)
class Reach:
    """The ranks of an axis as the nodes divide them."""

    ranks: int
    in_node: int
    """Of a group, those in one node."""

    @property
    def level(self) -> Level:
        """Return the slowest link on the way."""
        return "inside a node" if self.in_node >= self.ranks else "between nodes"


@lru_cache(maxsize=1 << 16)
def reach(degrees: Degrees, axis: str, node: int) -> Reach:
    """Return the ranks of an axis, of which the last one of the grid has adjacent ranks."""
    if axis in ("hidden states", "word embedding"):
        return Reach(2, 2 if degrees.processes <= node else 1)
    if " x " in axis:
        ranks = 1
        for name in axis.split(" x "):
            ranks *= getattr(degrees, name)
        return Reach(ranks, min(ranks, node))
    grid = degrees.grid_of(axis) if axis != "data" else degrees.grid_of("replicate", "shard")
    names = ("replicate", "shard") if axis == "data" else (axis,)
    ranks = grid.degree(*names)
    inner = 1
    for name, degree in zip(reversed(grid.names), reversed(grid.degrees), strict=True):
        if name in names:
            break
        inner *= degree
    return Reach(ranks, max(1, min(ranks, node // inner)))


def ring_seconds(link_bytes: float, where: Reach, device: Device) -> float:
    """Return the time of what leaves a process in rings; those between nodes use the links of all its ranks of a node."""
    of = device.efficiency
    inside = device.inside * of.inside
    if where.level == "inside a node":
        return link_bytes / inside
    return link_bytes / min(inside, device.between * of.between * where.in_node)


def exchange_seconds(link_bytes: float, where: Reach, device: Device) -> float:
    """Return the time of what a process sends to all others of a group alike."""
    of = device.efficiency
    if where.ranks == 1:
        return 0.0
    away = (where.ranks - where.in_node) / (where.ranks - 1)
    return max(link_bytes * away / (device.between * of.between), link_bytes * (1 - away) / (device.inside * of.inside))
