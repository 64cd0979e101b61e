"""A training step of one rank of any layout, without devices, without other processes and without numbers.

The real model, the real parallel code and the real step run on tensors that have shapes only, in a process group that sends
nothing and writes down what would be sent. Routing is assumed to be balanced, and rows to be one document each.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from longcat.accelerator import Accelerator, Kind
from longcat.config import Phase, PipelineConfig
from longcat.corpus.shards import Batch
from longcat.costs.flops import expected_ffn_experts
from longcat.costs.memory import TrainingMemory, training_memory
from longcat.costs.stages import Schedule
from longcat.errors import ConfigError
from longcat.model.plan import balanced
from longcat.ops.chunks import sized_for
from longcat.parallel.asked import spread_of
from longcat.parallel.axes import TOKENS, Degrees
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.rehearsal import rehearsal, silent
from longcat.parallel.weights import without_numbers
from longcat.processes.pool import Pool
from longcat.training.layout import settle_layout
from longcat.training.observation import Observation
from longcat.training.trainer import Trainer, phase_of

AXES = (
    "tensor",
    "context",
    "expert",
    "dense_shard",
    "expert_shard",
    "replicate",
    "expert_replicate",
    "embedding",
    "pipeline",
)
"""Names of groups, the first of which stands for a group that serves several purposes."""
R = TypeVar("R")
BytesByAxis = dict[str, dict[str, int]]
"""Bytes of a step by axis and collective, see `longcat.parallel.rehearsal.SilentGroup`."""


@dataclass(frozen=True)
class RankReport:
    """A rank's part of a step, in bytes unless said otherwise."""

    rank: int
    stage: int
    """Of the pipeline."""
    parameters: int
    """Number of them that this rank holds."""
    parameter_bytes: int
    """fp32 weights, and copies in the type of computation where there are any."""
    optimizer_bytes: int
    """State of the optimizers on the device."""
    gradient_bytes: int
    """Gradients of this rank's part of the parameters."""
    saved_bytes: int
    """Most that a forward pass leaves for the backward pass, without gathered weights."""
    peak_bytes: int
    """Most that lives at once, what operators and collectives need for themselves left out."""
    flops: float
    """FLOP of matrix products and attention, recomputation included."""
    bytes_by_axis: BytesByAxis


@dataclass(frozen=True)
class DryRun:
    """What a step takes, in the rank that needs most memory, and in each kind of rank."""

    degrees: dict[str, int]
    micro_batches: int
    """Of a step."""
    phase: Phase
    """How attention is trained in the step, always dense without `model.sparse_attention`."""
    ranks: list[RankReport]
    """One of each stage that differs from others: the first one, one in the middle, the last one."""
    memory_bytes: int
    """Of a device."""
    estimate: TrainingMemory
    """What the formulas say."""
    seconds: float
    """That the dry run took."""

    @property
    def worst(self) -> RankReport:
        """The rank that needs most memory."""
        return max(self.ranks, key=lambda report: report.peak_bytes)

    @property
    def fits(self) -> bool:
        """Whether the rank that needs most memory has it."""
        return self.worst.peak_bytes <= self.memory_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return all figures for a JSON document."""
        worst = asdict(self.worst)
        return {
            "world_size": math.prod(self.degrees[axis.name] for axis in TOKENS),
            "degrees": self.degrees,
            "micro_batches": self.micro_batches,
            "phase": self.phase,
            "memory_bytes": self.memory_bytes,
            "fits": self.fits,
            "estimated_peak_bytes": round(self.estimate.peak),
            "estimate": self.estimate.parts(),
            "per_rank_parameters": worst.pop("parameters"),
            **worst,
            "ranks": [asdict(report) for report in self.ranks],
            "seconds": self.seconds,
        }


def dry_run(config: PipelineConfig, memory_bytes: int, kind: Kind = "npu", phase: Phase | None = None) -> DryRun:
    """Run the first step of a configuration, or of a phase, for one rank of each kind.

    Args:
        config: with `training.processes`; its precision `auto` stands for bf16.
        memory_bytes: of each device.
        kind: of the devices, for the size of the chunks that operators work in.
        phase: of sparse attention, the one that training begins with by default.

    Raises:
        ConfigError: the layout does not fit; names the nearest one that does. Or training has no such phase.
    """
    began = time.perf_counter()
    step = 0 if phase is None else first_step(phase, config)
    layout = settle_layout(config, _device(memory_bytes))
    degrees = layout.degrees
    stages = sorted({0, min(1, degrees.pipeline - 1), degrees.pipeline - 1})
    ranks = [(config, memory_bytes, kind, stage, step) for stage in stages]
    if len(ranks) == 1:
        reports = [report_of(*ranks[0])]
    else:  # a process for each, as torch remembers groups by what they look like in the rank before
        with ExitStack() as stack:
            advice = "run the same command again, with more memory if it was full"
            pools = [stack.enter_context(closing(Pool(1, _HANG_S, str, advice))) for _ in ranks]
            futures = [pool.submit(_report_of, rank) for pool, rank in zip(pools, ranks, strict=True)]
            reports = [future.result() for future in futures]
    length = config.corpus.sequence_length_tokens
    estimate = training_memory(
        config.model, config.training, spread_of(degrees), layout.precision, config.parallel, length, memory_bytes, kind
    )
    micro_batches, _ = _micro_batches(config, degrees)
    trained = phase_of(step, config.training) if config.model.sparse_attention else "dense"
    return DryRun(degrees.by_axis, micro_batches, trained, reports, memory_bytes, estimate, time.perf_counter() - began)


def first_step(phase: Phase, config: PipelineConfig) -> int:
    """Return the number of the first step of a phase of sparse attention.

    Raises:
        ConfigError: training has no such phase; names those that it has.
    """
    training = config.training
    if config.model.sparse_attention is None:
        raise ConfigError(f"--phase={phase} is one of sparse attention, and model.sparse_attention is not set")
    lengths = {"dense": training.dense_attention_steps, "warmup": training.indexer_warmup_steps}
    firsts: dict[Phase, int] = {"dense": 0, "warmup": lengths["dense"], "sparse": sum(lengths.values())}
    there = [name for name, step in firsts.items() if step < training.steps and phase_of(step, training) == name]
    if phase not in there:
        steps = ", ".join(f"training.{name}={getattr(training, name)}" for name in _PHASE_STEPS)
        raise ConfigError(f"--phase={phase}: {steps} leave no step for it; there are steps for {', '.join(there)}")
    return firsts[phase]


_PHASE_STEPS = ("dense_attention_steps", "indexer_warmup_steps", "steps")
"""Settings that say how long phases take."""


_HANG_S = 60.0
"""Seconds after which a process for one rank that was stopped by a signal is replaced."""


def _report_of(rank: tuple[PipelineConfig, int, Kind, int, int]) -> RankReport:
    return report_of(*rank)


def report_of(
    config: PipelineConfig, memory_bytes: int, kind: Kind, stage: int, step: int = 0, every_micro_batch: bool = False
) -> RankReport:
    """Run a step of a configuration for the first rank of a stage of the pipeline; see `dry_run`.

    What repeats from one micro-batch to the next is run once and scaled, but for `every_micro_batch`.
    """
    device = _device(memory_bytes)
    layout = settle_layout(config, device)
    with (
        warnings.catch_warnings(),
        _without_devices(config, layout.degrees, stage * layout.degrees.stage, kind) as (mesh, fake),
    ):
        warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # of new names for what FSDP calls too
        trainer = Trainer(config, mesh, device, layout.precision)
        return _observe(trainer, mesh, fake, stage, step, *_micro_batches(config, layout.degrees), every_micro_batch)


def _device(memory_bytes: int) -> Accelerator:
    return Accelerator("cpu", "none", 1, memory_bytes, supports_bf16=True)


def _micro_batches(config: PipelineConfig, degrees: Degrees) -> tuple[int, int]:
    """Return the number of micro-batches of a step, and the rows of one."""
    rows = config.training.global_batch_sequences // degrees.batch_world
    micro_batch = config.training.micro_batch_sequences or rows
    return -(-rows // micro_batch), micro_batch


@contextmanager
def _without_devices(
    config: PipelineConfig, degrees: Degrees, rank: int, kind: Kind
) -> Iterator[tuple[ProcessMesh, FakeTensorMode]]:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with ExitStack() as stack:
        stack.enter_context(rehearsal(rank, degrees.processes))
        stack.enter_context(without_numbers(fake))
        stack.enter_context(balanced(expected_ffn_experts(config.model) / config.model.moe_topk))
        stack.enter_context(sized_for(kind))
        limit = timedelta(seconds=config.training.collective_timeout_s)
        yield ProcessMesh(degrees, rank, torch.device("cpu"), limit), fake


def _observe(
    trainer: Trainer,
    mesh: ProcessMesh,
    fake: FakeTensorMode,
    stage: int,
    step: int,
    micro_batches: int,
    micro_batch: int,
    every: bool,
) -> RankReport:
    """Let a trainer make a step of few micro-batches, and report one of as many as there are.

    Once a pipeline is full and gradients are there, all further micro-batches do what those before them did.
    """
    observed = Observation()
    parameters = list(trainer.weights.parameters())
    states = [of for optimizer in trainer.optimizers for state in optimizer.state.values() for of in state.values()]
    copies = [*trainer.weights.buffers(), *(of for part in trainer.parallel.parts for of in part.parameters())]
    for optimizer in trainer.optimizers:
        for state in optimizer.state.values():
            if "step" in state:  # counted where there are numbers
                state["step"].fill_(1)
    parameter_bytes, optimizer_bytes = observed.add([*parameters, *copies]), observed.add(states)
    stages = mesh.degrees.pipeline
    filling = _FILLING[trainer.config.parallel.schedule] if stages > 1 else _FILLING["1f1b"]
    few = micro_batches if every else min(micro_batches, filling.enough(stages))
    more = micro_batches - few
    with fake, observed:
        marks = _Marks(trainer, mesh, observed, filling, few)
        before = marks.now()
        trainer.step(step, _batch(trainer, micro_batch * few))
        total = marks.now() - before
    peaks, ready = [*(peak for *_, peak in marks.seen), observed.peak_bytes], 0
    if more:
        (done, alive, _), (done_after, alive_after, _) = marks.seen
        times = more // filling.period(stages)
        total += times * (done_after - done)
        left = times * max(0, alive_after - alive)
        ready = more * (marks.ready or 0) // few  # a pipeline makes room for what it will receive of each
        peaks = [ready + peak + grown for peak, grown in zip(peaks, (0, left, left), strict=True)]
    by_axis: BytesByAxis = {}
    for (axis, collective), amount in total.numbers.items():
        if axis and amount:
            by_axis.setdefault(axis, {})[collective] = amount
    return RankReport(
        rank=mesh.rank,
        stage=stage,
        parameters=sum(of.to_local().numel() if isinstance(of, DTensor) else of.numel() for of in parameters),
        parameter_bytes=parameter_bytes,
        optimizer_bytes=optimizer_bytes,
        gradient_bytes=sum(of.part.numel() * of.part.element_size() for of in trainer.gradients),
        saved_bytes=marks.saved + ready,
        peak_bytes=max(peaks),
        flops=total.numbers["", "flops"],
        bytes_by_axis=by_axis,
    )


@dataclass(frozen=True)
class _Filling:
    """How a schedule fills a pipeline of n processes, see `torch.distributed.pipelining`."""

    enough: Callable[[int], int]
    """Micro-batches of a step in whose last period all parts of the model have their gradients already."""
    period: Callable[[int], int]
    """Micro-batches after which a process does the same again."""
    by_last_part: bool
    """Whether the last period ends as the last part of the model begins with its last micro-batch, or else the first one."""
    in_flight: Callable[[int, int], int]
    """Forward passes of the process at a place up to its first backward pass."""


_FILLING: dict[Schedule, _Filling] = {
    "1f1b": _Filling(lambda n: n + 2, lambda _: 1, False, lambda n, place: n - place),
    "interleaved": _Filling(lambda n: 3 * n, lambda n: n, True, lambda n, place: 3 * n - 2 * place - 1),
    "zbv": _Filling(lambda n: 2 * n + 2, lambda _: 1, False, lambda n, _: 2 * n),
}


@dataclass(frozen=True)
class _Made:
    """What has been done: bytes by axis and collective, and the FLOP."""

    numbers: dict[tuple[str, str], int]

    def __add__(self, other: _Made) -> _Made:
        return _Made(
            {key: self.numbers.get(key, 0) + other.numbers.get(key, 0) for key in self.numbers | other.numbers}
        )

    def __sub__(self, other: _Made) -> _Made:
        return self + -1 * other

    def __rmul__(self, factor: int) -> _Made:
        return _Made({key: factor * amount for key, amount in self.numbers.items()})


class _Marks:
    """What a step has done, what lives and has lived as its last period begins and ends; and what forward passes leave behind."""

    def __init__(self, trainer: Trainer, mesh: ProcessMesh, observed: Observation, filling: _Filling, few: int) -> None:
        """Watch the step of a trainer with few micro-batches, see `_Filling`."""
        self._mesh, self._observed = mesh, observed
        processes = mesh.degrees.pipeline
        self._in_flight = filling.in_flight(processes, mesh.degrees.grid_of("pipeline").place(mesh.rank, "pipeline"))
        self._period = (few - 1 - filling.period(processes), few - 1)
        self.seen: list[tuple[_Made, int, int]] = []
        """What has been done, the bytes that live, and the most that have lived since the mark before."""
        self.saved = 0
        """Most bytes that a forward pass has left."""
        self.ready: int | None = None
        """Bytes that a step has made before anything was gathered: of its rows, equally many of each."""
        self._forward: Counter[nn.Module] = Counter()
        self._passes, self._base = 0, self._alive()
        parts = trainer.parallel.parts
        self._marked = parts[-1 if filling.by_last_part else 0]
        for part in parts:
            part.register_forward_pre_hook(self._before, prepend=True)  # before anything is gathered
            part.register_forward_hook(self._after)
            if isinstance(part, FSDPModule):  # schedules of several parts gather before a forward pass
                part.unshard = self._getting_ready(part.unshard)  # type: ignore[method-assign]

    def now(self) -> _Made:
        """Return what has been done so far."""
        return _Made(dict(_made(self._mesh, self._observed)))

    def _alive(self) -> int:
        gathered = self._observed.gathered()
        return self._observed.bytes - gathered

    def _getting_ready(self, unshard: Callable[..., R]) -> Callable[..., R]:
        def first(*arguments: Any, **settings: Any) -> R:
            self._note_ready()
            return unshard(*arguments, **settings)

        return first

    def _note_ready(self) -> None:
        if self.ready is None:
            self.ready = self._alive() - self._base

    def _before(self, part: nn.Module, *_: Any) -> None:
        self._note_ready()
        if part is self._marked and self._forward[part] in self._period:
            self.seen.append((self.now(), self._alive(), self._observed.begin_peak()))
        self._forward[part] += 1

    def _after(self, *_: Any) -> None:
        self._passes += 1
        if self._passes <= self._in_flight:
            self.saved = max(self.saved, self._alive() - self._base)


def _batch(trainer: Trainer, rows: int) -> Batch:
    numbers = np.zeros((rows, trainer.config.corpus.sequence_length_tokens), np.int64)
    return Batch(numbers, numbers, numbers)


def _made(mesh: ProcessMesh, observed: Observation) -> Counter[tuple[str, str]]:
    """Everything that has been counted so far, bytes by axis and collective and the FLOP."""
    found: Counter[tuple[str, str]] = Counter({("", "flops"): observed.flops})
    names: dict[int, list[str]] = {}
    for name, group in mesh.groups.items():
        names.setdefault(id(group), []).append(name)
    groups = {id(group): group for group in mesh.groups.values()}
    for key, of in names.items():
        if groups[key].size() > 1:
            axis = next((name for name in AXES if name in of), of[0])
            for collective, amount in silent(groups[key]).sent.items():
                found[axis, collective] += amount
    return found
