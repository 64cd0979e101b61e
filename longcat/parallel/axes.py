"""The axes of parallelism as one table: how far each one divides the work, and which ranks belong together.

Pure arithmetic of ranks, without torch and without processes, so that a layout is checked before anything starts and at
any size. A new axis is a field of `Degrees`, a row of `DENSE` or `EXPERT` and, if it divides tokens, an entry in the
tables below them; `longcat.parallel.mesh` opens its groups from here.

The same ranks are seen as two grids. To everything but the routed experts they are the `DENSE` grid; to the routed
experts they are the `EXPERT` grid, so that experts may be spread over processes that share no other parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from longcat.errors import ConfigError

Divided = Literal["rows", "experts"]
"""What an axis divides: the rows of a batch, or the routed experts of each layer."""
Kind = Literal["dense", "expert", "table"]
"""Of a parameter: one of the routed experts, n-gram tables whose rows are spread, or any other."""
Quantity = Literal[
    "losses",
    "counts",
    "expert_load",
    "dense_gradient_square",
    "expert_gradient_square",
    "table_gradient_square",
    "stop",
]
"""A number of which every process has a part, or its own, and the sum is wanted."""


@dataclass(frozen=True)
class Axis:
    """A row of the table; its degree is the attribute of `Degrees` with its name."""

    name: str
    divides: Divided


DENSE = (Axis("replicate", "rows"), Axis("shard", "rows"))
"""Axes of everything but the routed experts, outermost first; neighbours along the last one have adjacent ranks."""
EXPERT = (Axis("expert_replicate", "rows"), Axis("expert_shard", "rows"), Axis("expert", "experts"))
"""Axes of the routed experts, outermost first."""
TABLES = (Axis("embedding", "rows"),)
"""The axis of spread n-gram tables: all ranks, each with rows of its own."""
VIEWS: dict[Kind, tuple[Axis, ...]] = {"dense": DENSE, "expert": EXPERT, "table": TABLES}
"""The grid that each kind of parameter is laid out on."""

BATCH: tuple[str, ...] = ("replicate", "shard")
"""Axes along which processes read different rows of a batch; along every other one they share them."""
COPIES: dict[Literal["dense", "expert"], str] = {"dense": "replicate", "expert": "expert_replicate"}
"""Axis along which processes hold the same shard of a parameter of each kind; its gradients are summed over it."""
SHARDS: dict[Kind, str] = {"dense": "shard", "expert": "expert_shard", "table": "embedding"}
"""Axis along which a parameter of each kind is sharded; its gradients are summed over it, too."""
SQUARES: dict[Kind, Quantity] = {
    "dense": "dense_gradient_square",
    "expert": "expert_gradient_square",
    "table": "table_gradient_square",
}
"""Squared norm of the gradients of each kind of parameter."""
SUMMED_OVER: dict[Quantity, tuple[str, ...]] = {
    "losses": BATCH,  # each process has those of its own tokens
    "counts": BATCH,
    "expert_load": BATCH,
    # each element is on one process of these axes; along the others there are only copies of it
    "dense_gradient_square": ("shard",),
    "expert_gradient_square": ("expert_shard", "expert"),
    "table_gradient_square": ("embedding",),
    "stop": BATCH,
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
    """How many processes there are, and how many of them share the work along each axis.

    Raises:
        ConfigError: a number below 1, or degrees that do not divide the processes.
    """

    processes: int = 1
    """Training processes, all together."""
    expert: int = 1
    """Processes that hold one set of routed experts between them."""
    replicate: int = 1
    """Processes that hold the same shard of each parameter."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"{_key(name)}={value} is below 1")
            if self.processes % value:
                raise ConfigError(f"{_key(name)}={value} does not divide training.processes={self.processes}")

    @property
    def shard(self) -> int:
        """Processes over which each parameter of no routed expert is sharded."""
        return self.processes // self.replicate

    @property
    def expert_shard(self) -> int:
        """Processes over which the parameters of one process' routed experts are sharded.

        As many as it takes for the sets of experts to cover whole groups of `shard`: an element of an expert then has no
        more copies than one of another parameter.
        """
        return self.shard // math.gcd(self.shard, self.expert)

    @property
    def expert_replicate(self) -> int:
        """Processes that hold the same shard of the same routed experts."""
        return self.processes // (self.expert * self.expert_shard)

    @property
    def embedding(self) -> int:
        """Processes over which the rows of n-gram tables are spread, if they are."""
        return self.processes

    @property
    def by_axis(self) -> dict[str, int]:
        """The degree of each axis that the section `parallel` of the configuration has."""
        return {name: getattr(self, name) for name in (*(axis.name for axis in DENSE), "expert")}

    def grid(self, view: Sequence[Axis]) -> Grid:
        """The ranks as this view of the table sees them."""
        return Grid(tuple(axis.name for axis in view), tuple(getattr(self, axis.name) for axis in view))

    def grid_of(self, *axes: str) -> Grid:
        """The grid that has all these axes."""
        for view in VIEWS.values():
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


@dataclass(frozen=True)
class Wish:
    """A layout as it is asked for: the open degrees are 0, and the batch and the model are what they are."""

    processes: int
    replicate: int = 1
    shard: int = 0
    """0 takes the processes that `replicate` leaves."""
    expert: int = 0
    """0 takes the most that divide the processes and the routed experts."""
    batch_sequences: int = 1
    """Rows of a whole batch."""
    routed_experts: int = 1
    """Of each layer."""

    def settle(self) -> Degrees:
        """Choose the degrees that are left open, and check all of them against the batch and the model.

        Raises:
            ConfigError: names the fields, their values and the nearest ones that fit.
        """
        if faults := list(self._faults()):
            changes = " with ".join(f"{_key(name)}={value}" for name, value in self._nearest().items())
            fewer = self._fewer_processes()
            instead = "" if fewer is None else f", or take {_key('processes')}={fewer}"
            raise ConfigError(f"{' and '.join(faults)}; {changes} would fit{instead}")
        return Degrees(self.processes, self.expert or self._most_experts, self.replicate)

    @property
    def _most_experts(self) -> int:
        return math.gcd(self.processes, self.routed_experts)

    def _faults(self) -> Iterator[str]:
        for name in ("processes", "replicate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{_key(name)}={getattr(self, name)} is below 1")
        processes = f"training.processes={self.processes}"
        if self.shard and self.replicate * self.shard != self.processes:
            product = self.replicate * self.shard
            yield f"parallel.replicate={self.replicate} x parallel.shard={self.shard} is {product}, not {processes}"
        elif self.processes % self.replicate:
            yield f"parallel.replicate={self.replicate} does not divide {processes}"
        if self.expert and self._most_experts % self.expert:
            divided = {processes: self.processes, f"model.n_routed_experts={self.routed_experts}": self.routed_experts}
            wrong = " and ".join(name for name, value in divided.items() if value % self.expert)
            yield f"parallel.expert={self.expert} does not divide {wrong}"
        if self.batch_sequences % self.processes:
            yield f"training.global_batch_sequences={self.batch_sequences} is not a multiple of {processes}"

    def _nearest(self) -> dict[str, int]:
        """The fields to change for the nearest layout of as many processes that fits."""
        nearest = {"replicate": self.replicate, "shard": self.shard, "expert": self.expert}
        if not self.shard:
            nearest["replicate"] = nearest_divisor(self.replicate, self.processes)
        elif self.replicate * self.shard != self.processes:
            if self.processes % self.shard == 0 or self.processes % self.replicate:
                nearest["shard"] = nearest_divisor(self.shard, self.processes)
                nearest["replicate"] = self.processes // nearest["shard"]
            else:
                nearest["shard"] = self.processes // self.replicate
        if self.expert:
            nearest["expert"] = nearest_divisor(self.expert, self._most_experts)
        nearest["batch_sequences"] = max(1, round(self.batch_sequences / self.processes)) * self.processes
        return {name: value for name, value in nearest.items() if value != getattr(self, name)}

    def _fewer_processes(self) -> int | None:
        """The most processes below these that fit without another change; None if no number does."""
        if self.expert and self.routed_experts % self.expert:
            return None
        needed = math.lcm(self.replicate * (self.shard or 1), self.expert or 1)
        for processes in range((self.processes - 1) // needed * needed, 0, -needed):
            if self.batch_sequences % processes == 0 and self.replicate * self.shard in (0, processes):
                return processes
        return None


_KEYS = {"processes": "training.processes", "batch_sequences": "training.global_batch_sequences"}


def _key(field: str) -> str:
    """The configuration's name of a field of `Degrees` or `Wish`."""
    return _KEYS.get(field, f"parallel.{field}")


def nearest_divisor(value: int, of: int) -> int:
    """The divisor of a number that is nearest to a value by their ratio, and the smaller one of two such."""
    small = [number for number in range(1, math.isqrt(of) + 1) if of % number == 0]
    divisors = sorted({*small, *(of // number for number in small)})
    return min(divisors, key=lambda number: max(number, value) / min(number, value))
