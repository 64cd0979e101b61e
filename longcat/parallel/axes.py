"""The axes of parallelism as one table: how far each one divides the work, and which ranks belong together.

Pure arithmetic of ranks, without torch and without processes, so that a layout is checked before anything starts and at
any size. A new axis is a field of `Degrees`, a row of `DENSE` or `EXPERT` and, if it divides tokens, an entry in the
tables below them; `longcat.parallel.mesh` opens its groups from here.

The same ranks are seen as two grids. To everything but the routed experts they are the `DENSE` grid; to the routed
experts they are the `EXPERT` grid, so that experts may be spread over processes that share no other parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from longcat.errors import ConfigError

Divided = Literal["rows", "experts"]
"""What an axis divides: the rows of a batch, or the routed experts of each layer."""
Quantity = Literal["losses", "counts", "expert_load", "gradient_square", "stop"]
"""A number of which every process has a part, or its own, and the sum is wanted."""


@dataclass(frozen=True)
class Axis:
    """A row of the table."""

    name: str
    divides: Divided
    option: str | None
    """Field of `Degrees` (and of the section `training`) with the degree; an axis without one takes what is left."""


DENSE = (Axis("data", "rows", None),)
"""Axes of everything but the routed experts, outermost first; neighbours along the last one have adjacent ranks."""
EXPERT = (Axis("expert_data", "rows", None), Axis("expert", "experts", "expert_parallel"))
"""Axes of the routed experts, outermost first."""

BATCH: tuple[str, ...] = ("data",)
"""Axes along which processes read different rows of a batch; along every other one they share them."""
SHARDS: dict[Literal["dense", "expert"], str] = {"dense": "data", "expert": "expert_data"}
"""Axis along which a parameter of each kind is sharded and its gradients are summed."""
SUMMED_OVER: dict[Quantity, tuple[str, ...]] = {
    "losses": ("data",),  # each process has those of its own tokens
    "counts": ("data",),
    "expert_load": ("data",),
    # each element of a dense parameter and of spread tables is on one process of `data`; of an expert, on one of
    # `expert_data` and `expert`, which are the same processes
    "gradient_square": ("data",),
    "stop": ("data",),
}
"""Axes over which each quantity is summed."""


@dataclass(frozen=True)
class Grid:
    """Ranks as the points of a grid whose last axis varies fastest."""

    names: tuple[str, ...]
    degrees: tuple[int, ...]

    @property
    def ranks(self) -> int:
        """Number of points."""
        return math.prod(self.degrees)

    def degree(self, *axes: str) -> int:
        """Number of ranks that differ along these axes only."""
        return math.prod(self.degrees[number] for number in self._numbers(axes))

    def place(self, rank: int, *axes: str) -> int:
        """Position of a rank in its group along these axes, 0 first."""
        place = 0
        for number in self._numbers(axes):
            place = place * self.degrees[number] + self._coordinate(rank, number)
        return place

    def group(self, rank: int, *axes: str) -> tuple[int, ...]:
        """Ranks that differ from this one along these axes only, itself included, in ascending order."""
        numbers = self._numbers(axes)
        ranks = [rank - sum(self._coordinate(rank, number) * self._stride(number) for number in numbers)]
        for number in numbers:
            steps = range(0, self.degrees[number] * self._stride(number), self._stride(number))
            ranks = [start + step for start in ranks for step in steps]
        return tuple(ranks)

    def _numbers(self, axes: Sequence[str]) -> list[int]:
        if missing := sorted(set(axes) - set(self.names)):
            raise ValueError(f"no axis {', '.join(missing)}; there are {', '.join(self.names)}")
        return [number for number, name in enumerate(self.names) if name in axes]

    def _coordinate(self, rank: int, number: int) -> int:
        return rank // self._stride(number) % self.degrees[number]

    def _stride(self, number: int) -> int:
        return math.prod(self.degrees[number + 1 :])


@dataclass(frozen=True)
class Degrees:
    """How many processes there are, and how many of them share the work along each axis that has an option.

    Raises:
        ConfigError: a number below 1, or degrees that do not divide the processes.
    """

    processes: int = 1
    """Training processes, all together."""
    expert_parallel: int = 1
    """Processes that hold one set of routed experts between them."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"training.{name}={value} is below 1")
        for view in (DENSE, EXPERT):
            options = {axis.option: getattr(self, axis.option) for axis in view if axis.option}
            product = math.prod(options.values())
            if self.processes % product:
                named = " x ".join(f"training.{name}={value}" for name, value in options.items())
                raise ConfigError(
                    f"{named} does not divide training.processes={self.processes}; {nearest_divisors(product, self.processes)} would"
                )

    def grid(self, view: Sequence[Axis]) -> Grid:
        """The ranks as this view of the table sees them."""
        given = [getattr(self, axis.option) if axis.option else 0 for axis in view]
        left = self.processes // math.prod(degree or 1 for degree in given)
        return Grid(tuple(axis.name for axis in view), tuple(degree or left for degree in given))

    def grid_of(self, *axes: str) -> Grid:
        """The grid that has all these axes."""
        for view in (DENSE, EXPERT):
            if set(axes) <= {axis.name for axis in view}:
                return self.grid(view)
        raise ValueError(f"no grid has the axes {', '.join(axes)}")

    @property
    def batch_world(self) -> int:
        """Number of parts that a batch is divided into."""
        return self.grid_of(*BATCH).degree(*BATCH)

    def batch_rank(self, rank: int) -> int:
        """The part of each batch that a rank reads; ranks with the same number share their rows."""
        return self.grid_of(*BATCH).place(rank, *BATCH)


def settle(wanted: Mapping[str, int], *, batch_sequences: int, routed_experts: int) -> Degrees:
    """Choose the degrees that are left open, and check all of them against the batch and the model.

    Args:
        wanted: fields of `Degrees`; an `expert_parallel` of 0 is left open and becomes the largest that fits.
        batch_sequences: rows of a whole batch.
        routed_experts: of each layer.

    Raises:
        ConfigError: names the fields, their values and the nearest ones that fit.
    """
    asked = wanted["expert_parallel"]
    divided = {"training.processes": wanted["processes"], "model.n_routed_experts": routed_experts}
    common = math.gcd(*divided.values())
    if asked and common % asked:
        wrong = " and ".join(f"{name}={value}" for name, value in divided.items() if value % asked)
        raise ConfigError(
            f"training.expert_parallel={asked} does not divide {wrong}; {nearest_divisors(asked, common)} would"
        )
    degrees = Degrees(**{**wanted, "expert_parallel": asked or 1})
    parts = degrees.batch_world
    if batch_sequences % parts:
        below = batch_sequences // parts * parts
        sizes = " or ".join(str(size) for size in (below, below + parts) if size)
        divider = (
            f"training.processes={parts}" if parts == degrees.processes else f"the {parts} parts it is divided into"
        )
        raise ConfigError(
            f"training.global_batch_sequences={batch_sequences} is not a multiple of {divider}; {sizes} would be"
            f"{_fewer_processes(degrees, batch_sequences)}"
        )
    return replace(degrees, expert_parallel=asked or common)


def _fewer_processes(degrees: Degrees, batch_sequences: int) -> str:
    """Advice to take the most processes below the present ones that the batch and the other degrees fit."""
    for processes in range(degrees.processes - 1, 0, -1):
        try:
            fits = batch_sequences % replace(degrees, processes=processes).batch_world == 0
        except ConfigError:  # the other degrees do not divide them
            continue
        if fits:
            return f", or take training.processes={processes}"
    return ""


def nearest_divisors(value: int, of: int) -> str:
    """The divisors of a number that are nearest to a value, below and above, as `4 or 8`."""
    divisors = [number for number in range(1, of + 1) if of % number == 0]
    below = [number for number in divisors if number <= value][-1:]
    above = [number for number in divisors if number > value][:1]
    return " or ".join(str(number) for number in below + above)
