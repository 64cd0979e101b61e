"""Which processes of a group share a node, and which have the same place on every node. Pure arithmetic of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from longcat.errors import ConfigError
from longcat.parallel.axes import Degrees

_SHOWN = 3
"""Groups that a remark names."""


class Levels(NamedTuple):
    """A rank's companions in the two levels of an exchange, itself included, in ascending order."""

    across: tuple[int, ...]
    """With the same place on every node."""
    within: tuple[int, ...]
    """On the same node."""


def crossings(
    degrees: Degrees,
    nodes: Sequence[str],
    possible: Callable[[str, int], bool] = lambda axis, degree: True,
    axes: Sequence[str] = ("tensor", "expert"),
) -> list[str]:
    """Say which groups that exchange in every layer lie across nodes, and with what degrees none would.

    Ranks are numbered node by node and the members of such a group are neighbours, so that groups stay inside nodes if their
    degree divides the processes of a node. If it does not, no order of ranks could keep all of them inside.

    Args:
        degrees: of the whole layout.
        nodes: names, in the order of their ranks; each has the same number of processes.
        possible: says whether an axis could have another degree.
        axes: that are looked at.
    """
    each, found = degrees.processes // len(nodes), []
    for axis in axes:
        grid = degrees.grid_of(axis)
        groups = sorted({grid.group(rank, axis) for rank in range(degrees.processes)})
        across = [group for group in groups if group[0] // each != group[-1] // each]
        if not across:
            continue
        shown = ", ".join(
            f"ranks {group[0]} to {group[-1]} on {' to '.join((nodes[group[0] // each], nodes[group[-1] // each]))}"
            for group in across[:_SHOWN]
        )
        more = f" and {len(across) - _SHOWN} more" if len(across) > _SHOWN else ""
        fit = [str(degree) for degree in range(each, 0, -1) if each % degree == 0 and possible(axis, degree)]
        way_out = f"parallel.{axis}={' or '.join(fit)} would stay inside" if fit else ""
        if axis == "expert":
            way_out += f"{', or ' if fit else ''}parallel.two_level=true would send a token to each node once"
        found.append(
            f"{len(across)} of {len(groups)} groups of parallel.{axis}={grid.degree(axis)} lie across nodes of {each} "
            f"process{'es' if each > 1 else ''} ({shown}{more}), so that every layer waits for the link between nodes"
            + (f"; {way_out}" if way_out else "")
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
