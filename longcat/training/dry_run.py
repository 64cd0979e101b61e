"""A training step of one rank of any layout, without devices, without other processes and without numbers.

The real model, the real parallel code and the real step run on tensors that have shapes only, in a process group that sends
nothing and writes down what would be sent. Routing is assumed to be balanced, and rows to be one document each.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor

from longcat.accelerator import Accelerator, Kind
from longcat.config import PipelineConfig
from longcat.corpus.shards import Batch
from longcat.costs.flops import expected_ffn_experts
from longcat.costs.memory import TrainingMemory, training_memory
from longcat.model.plan import balanced
from longcat.ops.chunks import sized_for
from longcat.parallel.axes import TOKENS, Degrees
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.rehearsal import rehearsal, silent
from longcat.parallel.weights import without_numbers
from longcat.training.layout import settle_layout, spread_of
from longcat.training.observation import Observation
from longcat.training.trainer import Trainer

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
            "memory_bytes": self.memory_bytes,
            "fits": self.fits,
            "estimated_peak_bytes": round(self.estimate.peak),
            "estimate": self.estimate.parts(),
            "per_rank_parameters": worst.pop("parameters"),
            **worst,
            "ranks": [asdict(report) for report in self.ranks],
            "seconds": self.seconds,
        }


def dry_run(config: PipelineConfig, memory_bytes: int, kind: Kind = "npu") -> DryRun:
    """Run the first step of a configuration for one rank of each kind.

    Args:
        config: with `training.processes`; its precision `auto` stands for bf16.
        memory_bytes: of each device.
        kind: of the devices, for the size of the chunks that operators work in.

    Raises:
        ConfigError: the layout does not fit; names the nearest one that does.
    """
    began = time.perf_counter()
    device = Accelerator("cpu", "none", 1, memory_bytes, supports_bf16=True)
    layout = settle_layout(config, device)
    degrees = layout.degrees
    rows = config.training.global_batch_sequences // degrees.batch_world
    micro_batch = config.training.micro_batch_sequences or rows
    micro_batches = -(-rows // micro_batch)
    stages = sorted({0, min(1, degrees.pipeline - 1), degrees.pipeline - 1})
    reports = []
    for stage in stages:
        with _without_devices(config, degrees, stage * degrees.stage, kind) as (mesh, fake):
            trainer = Trainer(config, mesh, device, layout.precision)
            reports.append(_observe(trainer, mesh, fake, stage, micro_batches, micro_batch))
    length = config.corpus.sequence_length_tokens
    estimate = training_memory(
        config.model, config.training, spread_of(degrees), layout.precision, config.parallel, length, memory_bytes
    )
    return DryRun(degrees.by_axis, micro_batches, reports, memory_bytes, estimate, time.perf_counter() - began)


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
    trainer: Trainer, mesh: ProcessMesh, fake: FakeTensorMode, stage: int, micro_batches: int, micro_batch: int
) -> RankReport:
    """Let a trainer make steps of few micro-batches, and report one of as many as there are.

    From the number on that fills a pipeline twice, each further micro-batch does what the one before it did.
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
    saved = _Saved(trainer, observed)
    few = min(micro_batches, max(2, 2 * mesh.degrees.pipeline))
    with fake, observed:
        before = _made(mesh, observed)
        if micro_batches > few:
            trainer.step(0, _batch(trainer, micro_batch * (few - 1)))
        between = _made(mesh, observed)
        saved.begin()
        trainer.step(0, _batch(trainer, micro_batch * few))
        after = _made(mesh, observed)
    rest = micro_batches - few
    total = {
        key: after[key] - between[key] + rest * ((after[key] - between[key]) - (between[key] - before[key]))
        for key in after
    }
    by_axis: BytesByAxis = {}
    for (axis, collective), amount in total.items():
        if axis and amount:
            by_axis.setdefault(axis, {})[collective] = amount
    return RankReport(
        rank=mesh.rank,
        stage=stage,
        parameters=sum(of.to_local().numel() if isinstance(of, DTensor) else of.numel() for of in parameters),
        parameter_bytes=parameter_bytes,
        optimizer_bytes=optimizer_bytes,
        gradient_bytes=sum(of.part.numel() * of.part.element_size() for of in trainer.gradients),
        saved_bytes=saved.most,
        peak_bytes=observed.peak_bytes,
        flops=total["", "flops"],
        bytes_by_axis=by_axis,
    )


class _Saved:
    """What forward passes leave for backward passes."""

    def __init__(self, trainer: Trainer, observed: Observation) -> None:
        self._observed, self.most, self._base = observed, 0, 0
        for part in trainer.parallel.parts:
            part.register_forward_hook(self._after)

    def begin(self) -> None:
        self.most, self._base = 0, self._observed.bytes - self._observed.gathered()

    def _after(self, *_: Any) -> None:
        self.most = max(self.most, self._observed.bytes - self._observed.gathered() - self._base)


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
