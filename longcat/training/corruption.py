"""Hardware that computes or keeps wrong bits without a word, found by doing the same twice and in two places.

Three comparisons, bit for bit, between two steps: a micro-batch is computed a second time by the same process; it is computed
by a neighbour, which is a process at the same place of another `cell`, the smallest set of ranks that compute their rows
without others; and parameters, buffers and moments are compared with their copies in other processes. What none of them
sees is in docs/health.md. Where a device does not repeat its bits only copies are compared.
"""

from __future__ import annotations

import math
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from longcat.corpus.shards import Batch
from longcat.parallel.axes import ROW
from longcat.parallel.gradients import holders
from longcat.parallel.mesh import ProcessMesh
from longcat.processes.orders import NODE
from longcat.training.fingerprint import fingerprint
from longcat.training.trainer import Trainer

Prints = dict[str, Tensor]
"""Fingerprints by the name of what they are of, in the order of computation."""
GRADIENT = "gradient of "
"""Beginning of the names of what is summed over processes, which a neighbour has no equal of."""


@dataclass(frozen=True)
class Finding:
    """Bits that differ and should not."""

    how: Literal["again", "neighbour", "copies"]
    ranks: tuple[int, ...]
    """One of which is wrong, or all."""
    tensor: str
    nodes: tuple[str, ...] = ()
    """Of the ranks."""

    def __str__(self) -> str:
        ranks = " or ".join(
            f"rank {rank}{f' on {node}' if node else ''}"
            for rank, node in zip(self.ranks, self.nodes or ("",) * len(self.ranks), strict=True)
        )
        return {
            "again": f"{ranks} computes {self.tensor} to other bits a second time",
            "neighbour": f"{ranks} computes {self.tensor} to wrong bits, as the other one has others for the same rows",
            "copies": f"{ranks} holds wrong bits in {self.tensor}, as a copy of it has others",
        }[self.how]


class CorruptionCheck:
    """Compares what processes compute and hold. All of it is collective."""

    def __init__(self, trainer: Trainer, mesh: ProcessMesh, repeats_bits: bool = True) -> None:
        """Open what is compared with whom.

        Args:
            trainer: computes and holds what is compared.
            mesh: this process' place among the others.
            repeats_bits: whether the device computes the same bits each time; else nothing is computed a second time.
        """
        self._trainer, self._mesh, self._repeats_bits = trainer, mesh, repeats_bits
        degrees = mesh.degrees
        self._cell = math.lcm(degrees.expert, degrees.grid_of(*ROW).degree(*ROW))
        cells, first = degrees.stage // self._cell, mesh.rank // degrees.stage * degrees.stage
        place = (mesh.rank - first) % self._cell
        self._peers = tuple(first + place + number * self._cell for number in range(cells))
        self._group = mesh.share("neighbours", self._peers) if cells > 1 else None
        stage = mesh.rank // degrees.stage * degrees.stage
        self._everyone = tuple(range(stage, stage + degrees.stage))
        # in one order everywhere, so that none waits for a process that waits for it
        those = {holders(of, mesh) for of in trainer.weights.parameters()} | {self._everyone}
        self._copies = {ranks: mesh.share(f"copies {ranks}", ranks) for ranks in sorted(those) if len(ranks) > 1}

    @property
    def neighbour(self) -> int | None:
        """The rank whose rows this process computes as well; none where there is one cell only, or bits are not repeated."""
        if self._group is None or not self._repeats_bits:
            return None
        return self._peers[(self._peers.index(self._mesh.rank) + 1) % len(self._peers)]

    def check(self, step: int, own: Batch, neighbours: Batch | None) -> list[Finding]:
        """Make all comparisons that the device allows; the same result in every process.

        Args:
            step: 0-based number of the step that is next.
            own: this process' rows.
            neighbours: those of `neighbour`, if there is one.
        """
        found = [*self._copies_differ()]
        mine, theirs = self._computed_again(step, own, neighbours) if self._repeats_bits else (None, None)
        self._trainer.parallel.zero_grad()
        everyone = _exchange((os.environ.get(NODE) or socket.gethostname(), mine, theirs), self._mesh)
        nodes = [of[0] for of in everyone]
        found += _blame_again({rank: of[1] for rank, of in enumerate(everyone) if of[1] is not None})
        found += _blame_neighbours({rank: of[2] for rank, of in enumerate(everyone) if of[2] is not None})
        return [
            Finding(of.how, of.ranks, of.tensor, tuple(nodes[rank] for rank in of.ranks))
            for of in sorted(
                {of for one in _exchange(found, self._mesh) for of in one}, key=lambda of: (of.how, of.ranks, of.tensor)
            )
        ]

    def _computed_again(
        self, step: int, own: Batch, neighbours: Batch | None
    ) -> tuple[tuple[int, str] | None, tuple[int, str] | None]:
        """Return the first difference from what this process, and from what its neighbour, has computed, by number or rank."""
        first, again = self._prints(step, own), self._prints(step, own)
        differ = [name for name, one, other in _aligned(first, again) if one != other]
        mine = None if not differ else (list(first).index(differ[0]), differ[0])
        return mine, None if neighbours is None else self._compare(self._prints(step, neighbours), first)

    def _prints(self, step: int, rows: Batch) -> Prints:
        """Compute the gradients of a micro-batch and return the fingerprints of all that can be seen on the way."""
        prints: Prints = {}
        trainer = self._trainer
        with _seen(trainer, prints):
            trainer.try_out(step, rows, lambda name, tensors: prints.update(_named(name, tensors, prints)))
        for name, parameter in trainer.weights.named_parameters():
            if parameter.grad is not None:
                prints[f"{GRADIENT}{name}"] = fingerprint(parameter.grad)
        tables = trainer.parallel.tables
        if tables is not None and tables.gradient is not None:
            prints[f"{GRADIENT}the rows of n-gram tables"] = fingerprint(tables.gradient.values)
        return prints

    def _compare(self, neighbours: Prints, own: Prints) -> tuple[int, str] | None:
        """Compare what this process made of a neighbour's rows with what that one did; returns its rank and the first difference."""
        names = [name for name in own if not name.startswith(GRADIENT)]
        local = torch.stack([own[name] for name in names])
        everyone = local.new_empty(len(self._peers) * len(local))
        dist.all_gather_into_tensor(everyone, local, group=self._group)
        assert self.neighbour is not None
        theirs = everyone.view(len(self._peers), -1)[self._peers.index(self.neighbour)]
        here = torch.stack([neighbours[name] for name in names])
        differ = (here != theirs).nonzero().flatten().tolist()
        return (self.neighbour, names[differ[0]]) if differ else None

    def _copies_differ(self) -> Iterator[Finding]:
        """Compare parameters, moments and buffers with their copies; yields what this process sees."""
        prints: dict[tuple[int, ...], Prints] = {}
        mesh, trainer = self._mesh, self._trainer
        moments = {of: state for one in trainer.optimizers for of, state in one.state.items()}
        for name, parameter in trainer.weights.named_parameters():
            ranks = holders(parameter, mesh)
            if len(ranks) == 1 or parameter in trainer.parallel.copies:
                continue
            of = prints.setdefault(ranks, {})
            of[name] = fingerprint(parameter)
            if trainer.offloaded is None:
                for moment, value in moments.get(parameter, {}).items():
                    if isinstance(value, Tensor):
                        of[f"{name}, {moment}"] = fingerprint(value)
        if len(self._everyone) > 1:
            buffers = {name: fingerprint(of) for name, of in trainer.weights.named_buffers()}
            prints.setdefault(self._everyone, {}).update(buffers)
        for ranks in sorted(prints):
            if prints[ranks]:
                yield from self._compare_copies(ranks, prints[ranks])

    def _compare_copies(self, ranks: tuple[int, ...], prints: Prints) -> Iterator[Finding]:
        local = torch.stack(list(prints.values()))
        everyone = local.new_empty(len(ranks) * len(local))
        dist.all_gather_into_tensor(everyone, local, group=self._copies[ranks])
        table = everyone.view(len(ranks), -1)
        for number in (table != table[0]).any(0).nonzero().flatten().tolist():
            yield Finding("copies", wrong_ones(ranks, table[:, number].tolist()), list(prints)[number])


def wrong_ones(ranks: Sequence[int], values: Sequence[int]) -> tuple[int, ...]:
    """Return the ranks whose value is not that of most of them; all ranks if no value is."""
    value, count = Counter(values).most_common(1)[0]
    if 2 * count <= len(values):
        return tuple(ranks)
    return tuple(rank for rank, of in zip(ranks, values, strict=True) if of != value)


def _blame_again(first: dict[int, tuple[int, str]]) -> list[Finding]:
    """Name those where a difference shows first: from there it spreads to other processes."""
    if not first:
        return []
    earliest = min(number for number, _ in first.values())
    return [Finding("again", (rank,), name) for rank, (number, name) in first.items() if number == earliest]


def _blame_neighbours(differ: dict[int, tuple[int, str]]) -> list[Finding]:
    """Name the one that differs with both neighbours, or a pair that differs."""
    pairs = {rank: other for rank, (other, _) in differ.items()}
    both = [rank for rank in pairs if rank in pairs.values() and pairs[rank] != _only(pairs, rank)]
    if both:
        return [Finding("neighbour", (rank,), differ[rank][1]) for rank in both]
    return [Finding("neighbour", tuple(sorted((rank, other))), name) for rank, (other, name) in differ.items()]


def _only(pairs: dict[int, int], rank: int) -> int:
    return next(of for of, other in pairs.items() if other == rank)


def _aligned(first: Prints, again: Prints) -> list[tuple[str, int, int]]:
    """Return the fingerprints of both by name; what one of them lacks is 0. The host waits for the device once."""
    names = list({**first, **again})
    nothing = next(iter(first.values())).new_zeros(())
    table = torch.stack([of.get(name, nothing) for of in (first, again) for name in names]).view(2, -1).tolist()
    return list(zip(names, *table, strict=True))


def _exchange(own: Any, mesh: ProcessMesh) -> list[Any]:
    everyone: list[Any] = [None] * mesh.processes
    dist.all_gather_object(everyone, own)
    return everyone


def _named(name: str, tensors: Iterable[Tensor], there: Prints) -> Prints:
    """Return the fingerprint of tensors together, under a name that is not there yet."""
    number = 2
    unique = name
    while unique in there:
        unique, number = f"{name} ({number})", number + 1
    return {unique: torch.stack([fingerprint(of) * (2 * place + 1) for place, of in enumerate(tensors)]).sum()}


@contextmanager
def _seen(trainer: Trainer, prints: Prints) -> Iterator[None]:
    """Take fingerprints of what goes in and out of each layer while the context is open; not of compiled ones."""
    hooks = []

    def note(name: str) -> Callable[..., None]:
        def of_gradient(gradient: Tensor) -> None:
            prints.update(_named(f"the gradient behind {name}", [gradient], prints))

        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            prints.update(_named(f"the output of {name}", [hidden], prints))
            if hidden.requires_grad:
                hidden.register_hook(of_gradient)

        return hook

    try:
        if not trainer.config.training.compile:
            for part in trainer.parallel.parts:
                for number, layer in part.model.layers.items():
                    hooks.append(layer.register_forward_hook(note(f"layer {number}")))
        yield
    finally:
        for hook in hooks:
            hook.remove()
