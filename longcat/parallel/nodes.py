"""Which processes of a group share a node, and which have the same place on every node. Pure arithmetic of ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from longcat.errors import ConfigError
from longcat.parallel.axes import Degrees


class Levels(NamedTuple):
    """A rank's companions in the two levels of an exchange, itself included, in ascending order."""

    across: tuple[int, ...]
    """With the same place on every node."""
    within: tuple[int, ...]
    """On the same node."""


def crossings(degrees: Degrees, processes: int) -> list[str]:
    """Say which groups that exchange in every layer lie across nodes, and what would keep them inside.

    Args:
        degrees: of the whole layout; ranks are numbered node by node.
        processes: on each node.
    """
    if degrees.processes <= processes:
        return []
    found = []
    for axis, way_out in (
        ("tensor", ""),
        ("expert", ", or parallel.two_level=true would send a token to each node once"),
    ):
        grid = degrees.grid_of(axis)
        groups = (grid.group(rank, axis) for rank in range(degrees.processes))
        if any(group[0] // processes != group[-1] // processes for group in groups):
            degree = grid.degree(axis)
            inside = math.gcd(degree, processes)
            found.append(
                f"groups of parallel.{axis}={degree} lie across nodes of {processes} process{'es' if processes > 1 else ''}, so that "
                f"every layer waits for the link between nodes; parallel.{axis}={inside} would stay inside{way_out}"
            )
    return found


def levels(ranks: Sequence[int], rank: int, devices_per_node: int) -> Levels | None:
    """Return a rank's companions among `ranks`, or None where all are on one node.

    Args:
        ranks: of a group, ascending.
        rank: one of them.
        devices_per_node: processes on each node; ranks are numbered node by node.

    Raises:
        ConfigError: the group has more processes on one node than on another.
    """
    nodes: dict[int, list[int]] = {}
    for one in ranks:
        nodes.setdefault(one // devices_per_node, []).append(one)
    sizes = {len(members) for members in nodes.values()}
    if len(sizes) > 1:
        raise ConfigError(
            f"parallel.two_level: ranks {ranks[0]} to {ranks[-1]} hold one set of experts, and nodes of {devices_per_node} "
            f"devices have {' or '.join(map(str, sorted(sizes)))} of them; parallel.expert would have to be a multiple or "
            f"a divisor of {devices_per_node}"
        )
    if len(nodes) == 1:
        return None
    own = nodes[rank // devices_per_node]
    place = own.index(rank)
    return Levels(tuple(members[place] for members in nodes.values()), tuple(own))
