"""The axes of parallelism as one table: how far each one divides the work, and which ranks belong together.

Pure arithmetic of ranks, without torch and without processes, so that a layout is checked before anything starts and at
any size. A new axis is a field of `Degrees`, a row of a view and, if it divides tokens, an entry in the tables below them; `longcat.parallel.mesh` opens its groups from here.

The same ranks are seen as several grids: by the `TOKENS` that they compute, and by the parameters that they hold, which
are `DENSE`, those of the routed `EXPERT`s, or n-gram `TABLES`. So experts may be spread over processes that share no other
parameter, and processes that share the tokens of a row share its parameters, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from longcat.costs.stages import Schedule, stages_in_all
from longcat.errors import ConfigError

Divided = Literal["layers", "rows", "tokens", "heads", "weights", "experts"]
"""What an axis divides: the layers, the rows of a batch, the tokens of a row, the heads of attention and the inner width of
feed-forward networks, parameters, or the routed experts of each layer."""
View = Literal["tokens", "dense", "expert", "table"]
"""A way to see the ranks: by the tokens that they compute, or by the parameters of a kind that they hold."""
Kind = Literal["dense", "divided", "expert", "table"]
"""Of a parameter: one whose matrix is divided over `tensor`, one of the routed experts, n-gram tables whose rows are spread,
or any other."""
Quantity = Literal[
    "losses",
    "counts",
    "expert_load",
    "dense_gradient_square",
    "divided_gradient_square",
    "expert_gradient_square",
    "table_gradient_square",
    "row_statistics",
    "stop",
]
"""A number of which every process has a part, or its own, and the sum is wanted."""


@dataclass(frozen=True)
class Axis:
    """A row of the table; its degree is the attribute of `Degrees` with its name."""

    name: str
    divides: Divided


PIPELINE, REPLICATE, TENSOR = Axis("pipeline", "layers"), Axis("replicate", "rows"), Axis("tensor", "heads")
TOKENS = (PIPELINE, REPLICATE, Axis("shard", "rows"), Axis("context", "tokens"), TENSOR)
"""Axes of the work, outermost first; neighbours along the last one have adjacent ranks."""
DENSE = (PIPELINE, REPLICATE, Axis("dense_shard", "weights"), TENSOR)
"""Axes of everything but the routed experts and spread tables: shards are those of rows and of tokens together."""
EXPERT = (PIPELINE, Axis("expert_replicate", "weights"), Axis("expert_shard", "weights"), Axis("expert", "experts"))
"""Axes of the routed experts, which are spread over all ranks of a stage."""
TABLES = (PIPELINE, Axis("embedding", "weights"))
"""Axes of spread n-gram tables: all ranks of a stage, each with rows of its own."""
VIEWS: dict[View, tuple[Axis, ...]] = {"tokens": TOKENS, "dense": DENSE, "expert": EXPERT, "table": TABLES}
"""The grids that the ranks are seen as."""

BATCH: tuple[str, ...] = ("replicate", "shard")
"""Axes along which processes read different rows of a batch; along every other one they share them."""
ROW: tuple[str, ...] = ("context", "tensor")
"""Axes along which processes have different tokens of the same rows."""
COPIES: dict[Literal["dense", "expert"], str] = {"dense": "replicate", "expert": "expert_replicate"}
"""Axis along which processes hold the same shard of a parameter of each kind; its gradients are summed over it."""
SHARDS: dict[Kind, str] = {
    "dense": "dense_shard",
    "divided": "dense_shard",
    "expert": "expert_shard",
    "table": "embedding",
}
"""Axis along which a parameter of each kind is sharded; its gradients are summed over it, too."""
PARTS = "tensor"
"""Axis along which the gradients of "dense" parameters, which all its processes hold, are parts by tokens to be summed."""
HOLDERS: dict[Kind, tuple[str, ...]] = {
    "dense": (COPIES["dense"], PARTS),
    "divided": (COPIES["dense"],),
    "expert": (COPIES["expert"],),
    "table": (),
}
"""Axes along which processes hold the same shard of a parameter of each kind."""
SQUARES: dict[Kind, Quantity] = {
    "dense": "dense_gradient_square",
    "divided": "divided_gradient_square",
    "expert": "expert_gradient_square",
    "table": "table_gradient_square",
}
"""Squared norm of the gradients of each kind of parameter."""
_WORK = tuple(axis.name for axis in TOKENS)
SUMMED_OVER: dict[Quantity, tuple[str, ...]] = {
    "losses": _WORK,  # each process has those of its own tokens and layers
    "counts": BATCH,
    "expert_load": _WORK,
    # each element is on one process of these axes; along the others there are only copies of it
    "dense_gradient_square": ("pipeline", "dense_shard"),
    "divided_gradient_square": ("pipeline", "dense_shard", "tensor"),
    "expert_gradient_square": ("pipeline", "expert_shard", "expert"),
    "table_gradient_square": ("pipeline", "embedding"),
    "row_statistics": ROW,
    "stop": _WORK,
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
    pipeline: int = 1
    """Stages, each with layers of its own."""
    context: int = 1
    """Processes that divide the tokens of their rows."""
    tensor: int = 1
    """Processes that divide heads and feed-forward networks, and the tokens in between."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"{_key(name)}={value} is below 1")
            if self.processes % value:
                raise ConfigError(f"{_key(name)}={value} does not divide training.processes={self.processes}")
        for names in (("pipeline", "replicate", "context", "tensor"), ("pipeline", "expert")):
            degrees = {name: getattr(self, name) for name in names if getattr(self, name) > 1}
            if self.processes % math.prod(degrees.values()):
                raise ConfigError(f"{_product(degrees)}, which does not divide training.processes={self.processes}")

    @property
    def stage(self) -> int:
        """Processes of a pipeline stage."""
        return self.processes // self.pipeline

    @property
    def shard(self) -> int:
        """Processes that read different rows and hold shards of the same parameters."""
        return self.stage // (self.replicate * self.context * self.tensor)

    @property
    def dense_shard(self) -> int:
        """Processes over which each parameter of no routed expert is sharded."""
        return self.shard * self.context

    @property
    def expert_shard(self) -> int:
        """Processes over which the parameters of one process' routed experts are sharded.

        As many as it takes for the sets of experts to cover whole groups of processes without a copy of another parameter:
        an element of an expert then has no more copies than one of a parameter that is divided in every way.
        """
        whole = self.dense_shard * self.tensor
        return whole // math.gcd(whole, self.expert)

    @property
    def expert_replicate(self) -> int:
        """Processes that hold the same shard of the same routed experts."""
        return self.stage // (self.expert * self.expert_shard)

    @property
    def embedding(self) -> int:
        """Processes over which the rows of n-gram tables are spread, if they are."""
        return self.stage

    @property
    def by_axis(self) -> dict[str, int]:
        """The degree of each axis that the section `parallel` of the configuration has."""
        return {name: getattr(self, name) for name in (*(axis.name for axis in TOKENS), "expert")}

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
    """0 takes the processes that the other axes leave."""
    expert: int = 0
    """0 takes the most that divide the processes of a stage and the routed experts."""
    batch_sequences: int = 1
    """Rows of a whole batch."""
    routed_experts: int = 1
    """Of each layer."""
    pipeline: int = 1
    context: int = 1
    tensor: int = 1
    schedule: Schedule = "1f1b"
    """Of the pipeline."""
    layers: int = 0
    """Of the model; 0 for any number."""
    sequence_length: int = 0
    """Tokens of a row; 0 for any number."""
    widths: tuple[tuple[str, int], ...] = ()
    """What `tensor` has to divide, by its name in the configuration."""
    vocabulary: int = 0
    """Words, of which each process along `tensor` has some; 0 for any number."""
    micro_batch_sequences: int = 0
    """Rows of a micro-batch; 0 for all rows of a process."""

    def settle(self) -> Degrees:
        """Choose the degrees that are left open, and check all of them against the batch and the model.

        Raises:
            ConfigError: names the fields, their values and the nearest ones that fit.
        """
        if faults := list(self._faults()):
            nearest = self._nearest()
            changes = " with ".join(f"{_key(name)}={value}" for name, value in (nearest or {}).items())
            fewer = self._fewer_processes()
            instead = f"take {_key('processes')}={fewer}" if fewer else ""
            proposals = ", or ".join(part for part in (changes and f"{changes} would fit", instead) if part)
            raise ConfigError("; ".join(part for part in (" and ".join(faults), proposals) if part))
        return Degrees(
            self.processes, self.expert or self._most_experts, self.replicate, self.pipeline, self.context, self.tensor
        )

    @property
    def _most_experts(self) -> int:
        return math.gcd(self.processes // self.pipeline, self.routed_experts)

    @property
    def _batch_world(self) -> int:
        return self.processes // (self.pipeline * self.context * self.tensor)

    def _asked(self, *names: str) -> dict[str, int]:
        """The degrees along the axes of the work that are not left at 1, and those of these names."""
        degrees = {axis.name: getattr(self, axis.name) for axis in TOKENS}
        return {name: value for name, value in degrees.items() if value > 1 or name in names}

    def _faults(self) -> Iterator[str]:
        for name in ("processes", "pipeline", "replicate", "context", "tensor"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{_key(name)}={getattr(self, name)} is below 1")
        processes = f"training.processes={self.processes}"
        yield from self._unfit_product(processes)
        stage = processes if self.pipeline == 1 else f"{processes} / parallel.pipeline={self.pipeline}"
        divided = {f"model.n_routed_experts={self.routed_experts}": self.routed_experts}
        if self.processes % self.pipeline == 0:
            divided = {stage: self.processes // self.pipeline} | divided
        if self.expert and (wrong := [name for name, value in divided.items() if value % self.expert]):
            yield f"parallel.expert={self.expert} does not divide {' and '.join(wrong)}"
        if (stages := stages_in_all(self.schedule, self.pipeline)) > self.layers > 0:
            by = f" with parallel.schedule={self.schedule}" if stages > self.pipeline else ""
            yield f"parallel.pipeline={self.pipeline}{by} makes {stages} stages, more than model.num_layers={self.layers}"
        for name, width in self.widths:
            if width % self.tensor:
                yield f"parallel.tensor={self.tensor} does not divide {name}={width}"
        if not _has_enough(self.vocabulary, self.tensor):
            yield f"parallel.tensor={self.tensor} leaves a process without any of model.vocab_size={self.vocabulary} words"
        if (pieces := token_pieces(self.context, self.tensor)) > 1 and self.sequence_length % pieces:
            axes = {name: value for name, value in self._asked().items() if name in ROW}
            length = f"corpus.sequence_length_tokens={self.sequence_length}"
            yield f"{length} is not a multiple of {pieces}, as {_product(axes, total=False)} needs it"
        if (
            self.processes % (self.pipeline * self.context * self.tensor) == 0
            and self.batch_sequences % self._batch_world
        ):
            world = (
                processes
                if self._batch_world == self.processes
                else f"{self._batch_world} processes with rows of their own"
            )
            yield f"training.global_batch_sequences={self.batch_sequences} is not a multiple of {world}"
        elif self.processes % (self.pipeline * self.context * self.tensor) == 0:
            yield from self._unfit_micro_batches()

    def _unfit_micro_batches(self) -> Iterator[str]:
        rows = self.batch_sequences // self._batch_world
        size = self.micro_batch_sequences or rows
        asked = f"training.micro_batch_sequences={self.micro_batch_sequences}"
        if self._feeds_pipeline(rows, size):
            return
        if rows % size:
            yield f"{asked} does not divide a process' {rows} sequences, as parallel.pipeline={self.pipeline} needs it"
            return
        made = f"{rows // size} micro-batch{'es' if rows > size else ''}"
        most = "at least" if self.schedule != "interleaved" else "with parallel.schedule=interleaved a multiple of"
        yield (
            f"{asked} makes {made} of a process' {rows} sequences, and parallel.pipeline={self.pipeline} needs "
            f"{most} {self.pipeline}"
        )

    def _feeds_pipeline(self, rows: int, size: int) -> bool:
        """Whether a process' rows make micro-batches of this size that its pipeline can work with."""
        if self.pipeline == 1:
            return True
        whole = rows % size == 0 and rows // size >= self.pipeline
        return whole and (self.schedule != "interleaved" or rows // size % self.pipeline == 0)

    def _unfit_product(self, processes: str) -> Iterator[str]:
        asked = self._asked(*(("replicate", "shard") if self.shard else ()))
        product = math.prod(asked.values())
        if self.shard and product != self.processes:
            yield f"{_product(asked)}, not {processes}"
        elif self.processes % product:
            yield f"{_product(asked)}{',' if len(asked) > 1 else ''} {'which ' if len(asked) > 1 else ''}does not divide {processes}"

    def _nearest(self) -> dict[str, int] | None:
        """The fields to change for the nearest layout of as many processes that fits; None if there is none."""
        asked = {axis.name: getattr(self, axis.name) for axis in TOKENS}

        def distance(found: dict[str, int]) -> tuple[float, int, bool, int]:
            moved = {name: value for name, value in found.items() if asked[name] not in (0, value)}
            ratios = [abs(math.log(value / asked[name])) for name, value in moved.items()]
            return round(sum(ratios), 9), len(moved), "shard" in moved, found["replicate"]

        candidates = list(self._layouts())
        if not candidates:
            return None
        nearest = min(candidates, key=distance)
        if not self.shard:
            del nearest["shard"]
        settled = replace(self, **cast(Any, nearest))
        if self.expert:
            nearest["expert"] = nearest_divisor(self.expert, settled._most_experts)
        world = settled._batch_world
        nearest["batch_sequences"] = max(1, round(self.batch_sequences / world)) * world
        rows = nearest["batch_sequences"] // world
        if not settled._feeds_pipeline(rows, self.micro_batch_sequences or rows):
            if sizes := [size for size in _divisors(rows) if settled._feeds_pipeline(rows, size)]:
                wanted = self.micro_batch_sequences or sizes[-1]
                nearest["micro_batch_sequences"] = min(sizes, key=lambda size: max(size, wanted) / min(size, wanted))
            else:
                nearest["micro_batch_sequences"] = self.micro_batch_sequences or 1
                nearest["batch_sequences"] = nearest["micro_batch_sequences"] * settled.pipeline * world
        return {name: value for name, value in nearest.items() if value != getattr(self, name)}

    def _layouts(self) -> Iterator[dict[str, int]]:
        """All layouts of as many processes that the model allows, with no axis that was not asked for."""
        for pipeline in self._choices("pipeline", self.processes):
            if self.layers and stages_in_all(self.schedule, pipeline) > self.layers:
                continue
            for tensor in self._choices("tensor", self.processes // pipeline):
                if any(width % tensor for _, width in self.widths) or not _has_enough(self.vocabulary, tensor):
                    continue
                left = self.processes // (pipeline * tensor)
                for context in self._choices("context", left):
                    if self.sequence_length % token_pieces(context, tensor):
                        continue
                    for replicate in _divisors(left // context):
                        shard = left // (context * replicate)
                        names = ("pipeline", "replicate", "shard", "context", "tensor")
                        yield dict(zip(names, (pipeline, replicate, shard, context, tensor), strict=True))

    def _choices(self, name: str, of: int) -> list[int]:
        return _divisors(of) if getattr(self, name) > 1 else [1]

    def _fewer_processes(self) -> int | None:
        """The most processes below these that fit without another change; None if no number does."""
        work = math.prod(self._asked().values())
        needed = work if self.shard else math.lcm(work, self.pipeline * (self.expert or 1))
        most = min(work, self.processes - 1) if self.shard else self.processes - 1
        # each process with rows of its own needs one
        most = min(most, self.batch_sequences * self.pipeline * self.context * self.tensor)
        for processes in range(most // needed * needed, 0, -needed):
            fewer = replace(self, processes=processes)
            if self.batch_sequences % fewer._batch_world == 0 and not list(fewer._faults()):
                return processes
        return None


def token_pieces(context: int, tensor: int) -> int:
    """Return what the tokens of a row have to be a multiple of, to be divided over these two axes.

    A process along `context` has two chunks, one from each end of the row (see `longcat.parallel.context`); those along
    `tensor` divide each of them evenly.
    """
    return (2 * context if context > 1 else 1) * tensor


def _has_enough(words: int, processes: int) -> bool:
    """Say whether each process gets some of the words, equally many, rounded up, for all but the last."""
    return words == 0 or -(-words // processes) * (processes - 1) < words


_KEYS = {
    "processes": "training.processes",
    "batch_sequences": "training.global_batch_sequences",
    "micro_batch_sequences": "training.micro_batch_sequences",
}


def _key(field: str) -> str:
    """The configuration's name of a field of `Degrees` or `Wish`."""
    return _KEYS.get(field, f"parallel.{field}")


def _product(degrees: Mapping[str, int], total: bool = True) -> str:
    product = " x ".join(f"{_key(name)}={value}" for name, value in degrees.items())
    return f"{product} is {math.prod(degrees.values())}" if total and len(degrees) > 1 else product


def _divisors(of: int) -> list[int]:
    small = [number for number in range(1, math.isqrt(of) + 1) if of % number == 0]
    return sorted({*small, *(of // number for number in small)})


def nearest_divisor(value: int, of: int) -> int:
    """The divisor of a number that is nearest to a value by their ratio, and the smaller one of two such."""
    return min(_divisors(of), key=lambda number: max(number, value) / min(number, value))
