"""Measurements of training steps, taken inside the training processes.

Windows of plain steps come first, so that profiling does not slow them. After them steps under the profiler and plain
steps take turns: what the profiler costs is seen between neighbours, not against windows of an earlier minute.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from longcat.accelerator import Accelerator
from longcat.benchmark.breakdown import breakdown, read_trace
from longcat.benchmark.collectives import Bench, most, needs, scope_of, typical_exchange
from longcat.benchmark.kernels import measure_bandwidth, measure_kernels
from longcat.benchmark.timeline import timeline
from longcat.benchmark.traffic import Message, labels, served, table, watched
from longcat.config import BenchmarkConfig, PipelineConfig
from longcat.errors import DataError
from longcat.parallel.axes import PIPELINE, TOKENS, Degrees
from longcat.parallel.mesh import ProcessMesh
from longcat.peak import best_product
from longcat.training.regions import STEP
from longcat.training.trainer import StepResult, Trainer

TRACE = "trace.json.gz"
MOST_PROFILED = 8
"""Processes that run under the profiler."""
_PRODUCT_SIZE, _PRODUCT_SECONDS = 1024, 0.2
Step = Callable[[int], StepResult]


def time_windows(
    step: Step,
    first: int,
    settings: BenchmarkConfig,
    accelerator: Accelerator,
    between: Callable[[], float] | None = None,
) -> tuple[list[float], list[StepResult], list[float]]:
    """Time windows of steps, all processes starting together.

    Returns:
        Seconds of each window; the result of each step; the values of `between` before the first window and after each.
    """
    for number in range(first, first + settings.warmup_steps):
        step(number)
    first += settings.warmup_steps
    seconds, results = [], []
    values = [] if between is None else [between()]
    for window in range(settings.windows):
        dist.barrier()
        accelerator.synchronize()
        began = time.perf_counter()
        begin = first + window * settings.window_steps
        results += [step(number) for number in range(begin, begin + settings.window_steps)]
        accelerator.synchronize()
        seconds.append(time.perf_counter() - began)
        if between is not None:
            values.append(between())
    return seconds, results, values


def machine_peak(compute: torch.dtype) -> float:
    """Measure the FLOP/s of the best matrix product of all processes at once on a CPU.

    It is called between windows: products that differ from moment to moment show other load on the machine.
    """
    return _together((_PRODUCT_SIZE,) * 3, compute)


def _together(shape: tuple[int, int, int], compute: torch.dtype) -> float:
    """Measure the FLOP/s of the best product of a shape in all processes at once, summed over them."""
    best = best_product(shape, "bf16" if compute == torch.bfloat16 else "fp32", _PRODUCT_SECONDS)
    total = torch.tensor(best, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total)


def profile(
    step: Step, first: int, count: int, accelerator: Accelerator, directory: Path, mesh: ProcessMesh
) -> dict[str, Any] | None:
    """Profile `count` steps, each between two plain steps, on the ranks of `profiled_ranks`; others run the same steps.

    A step has a profiler of its own, so that no trace holds more than one. The first process' trace of all stays in the
    directory.

    Returns:
        On rank 0 the breakdown, with `plain_seconds` and `profiled_seconds`: the time of each plain and of each
        profiled step, and `timelines` of the last step of every profiled rank. None on other ranks, and where the
        profiler recorded nothing, as under the emulator.
    """

    def one(number: int) -> float:
        dist.barrier()
        accelerator.synchronize()
        began = time.perf_counter()
        with torch.profiler.record_function(STEP):
            step(number)
            accelerator.synchronize()
        return time.perf_counter() - began

    recorded = mesh.rank in profiled_ranks(mesh.degrees)
    plain: list[float] = []
    profiled: list[float] = []
    traces: list[list[dict[str, Any]]] = []
    with contextlib.ExitStack() as place:
        folder = Path(place.enter_context(tempfile.TemporaryDirectory(dir=directory)))
        place.enter_context(contextlib.chdir(folder))  # torch_npu's profiler leaves files in the working directory
        for pair in range(count + 1):
            number = first + 2 * pair
            recording: Any = accelerator.profiler() if recorded else contextlib.nullcontext()
            with recording, watched(mesh):
                seconds = one(number)
            if pair and recorded:  # the first pair is for the one-time work of the profiler
                profiled.append(seconds)
                trace = folder / f"trace-{pair}.json"
                recording.export_chrome_trace(str(trace))
                with contextlib.suppress(DataError):  # nothing was recorded
                    traces.append(read_trace(trace))
            plain.append(one(number + 1))
    own = None
    with contextlib.suppress(DataError):
        own = timeline(traces[-1], mesh.rank, stage_of(mesh.degrees, mesh.rank)).as_dict() if traces else None
    timelines = [found for found in _gathered(own, mesh.processes) if found]
    if mesh.rank != 0:
        return None
    try:
        events = [event for trace in traces for event in trace]
        parts = asdict(breakdown(events))
    except DataError:
        return None
    (directory / TRACE).write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode(), 6))
    return parts | {"plain_seconds": plain, "profiled_seconds": profiled, "timelines": timelines}


def profiled_ranks(degrees: Degrees) -> list[int]:
    """Choose the ranks to profile: all of few, else the first one of each stage of the pipeline, or of some stages."""
    if degrees.processes <= MOST_PROFILED:
        return list(range(degrees.processes))
    stages = [stage_of(degrees, rank) for rank in range(degrees.processes)]
    firsts = [stages.index(stage) for stage in sorted(set(stages))]
    return firsts[:: -(-len(firsts) // MOST_PROFILED)]


def stage_of(degrees: Degrees, rank: int) -> int:
    """Return the stage of the pipeline that a rank is on, 0 without one."""
    return degrees.grid(TOKENS).place(rank, PIPELINE.name)


def memory(trainer: Trainer, accelerator: Accelerator) -> dict[str, int]:
    """Count the bytes of this process by use; `rest` is the remainder of the peak: activations, buffers, libraries."""
    models = (*trainer.parallel.parts, trainer.weights)
    parameters = list({id(one): one for of in models for one in of.parameters()}.values())
    states = [
        value for optimizer in trainer.optimizers for state in optimizer.state.values() for value in state.values()
    ]
    parts = {
        "weights": sum(_bytes(parameter) for parameter in parameters),
        "gradients": sum(_bytes(gradient.part) for gradient in trainer.gradients),
        "optimizer": sum(_bytes(state) for state in states if isinstance(state, torch.Tensor)),
    }
    peak = accelerator.peak_memory_bytes()
    return parts | {"rest": max(0, peak - sum(parts.values())), "peak": peak}


def _bytes(tensor: torch.Tensor) -> int:
    local = getattr(tensor, "to_local", None)
    own: torch.Tensor = tensor if local is None else local()
    return own.numel() * own.element_size()


def operators(
    config: PipelineConfig, tokens: int, sequence_length: int, compute: torch.dtype, mesh: ProcessMesh, on: Accelerator
) -> dict[str, Any] | None:
    """Measure kernels and memory bandwidth on rank 0 while the other ranks wait; None elsewhere, or if switched off.

    On a CPU all processes then compute the fastest product at once: `together`, its FLOP/s summed over them. They share
    the machine, and what one of them reaches alone says little about all.
    """
    seconds = config.benchmark.kernel_seconds
    if not seconds:
        return None
    measured: dict[str, Any] | None = None
    fastest = torch.zeros(3, dtype=torch.int64)
    if mesh.rank == 0:
        kernels = measure_kernels(config.model, tokens, sequence_length, compute, on, mesh.device, seconds_each=seconds)
        measured = {
            "bandwidth": measure_bandwidth(on, mesh.device, seconds),
            "kernels": [
                asdict(one) | {"flops_per_second": one.flops_per_second, "intensity": one.intensity} for one in kernels
            ],
        }
        best = max((one for one in kernels if one.product), key=lambda one: one.flops_per_second)
        fastest = torch.tensor(best.product)
    dist.barrier()
    if on.kind == "cpu":
        dist.broadcast(fastest, 0)
        m, k, n = fastest.tolist()
        together = _together((m, k, n), compute)
        if measured is not None:
            measured["together"] = together
    return measured


def collectives(
    sizes: list[int], messages: list[Message], mesh: ProcessMesh, accelerator: Accelerator
) -> dict[str, Any] | None:
    """Time the collectives of a step along each axis, on the groups of the layout. Collective.

    Args:
        sizes: buffer sizes in bytes to time besides those of the step; an empty list omits all.
        messages: what this process sent in a step.
        mesh: this process' place among the others.
        accelerator: what the processes run on.

    Returns:
        The same in every process: `measured` and `needs`, what a step needs in the process that sends most (see
        `longcat.benchmark.collectives`); `served`, the axes of the table that the group of each name serves; `degrees`,
        the processes along each of them. None if omitted.
    """
    if not sizes or mesh.processes == 1:
        return None
    groups: dict[str, dist.ProcessGroup] = {}
    names = labels(mesh)
    for group in mesh.groups.values():
        groups.setdefault(names[id(group)], group)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", mesh.processes))
    scopes = {axis: scope_of(dist.get_process_group_ranks(group), local) for axis, group in groups.items()}
    needed = most(_gathered(needs(messages, scopes), mesh.processes))
    bench, measured = Bench(accelerator, mesh.device, repeats=5), []
    for need in needed:
        group_of_axis = groups.get(need.axis)
        if need.splits == "uneven":
            own = [one for one in messages if (one.axis, one.name, one.splits) == (need.axis, need.name, "uneven")]
            exchange = None
            if group_of_axis is not None:
                of_group = _gathered([one.bytes for one in own], group_of_axis.size(), group_of_axis)
                exchange = typical_exchange(own, of_group)
            measured.append(bench.uneven(need, group_of_axis, exchange))
        else:
            measured += bench.even(need, group_of_axis, sorted({need.mean, need.largest, *sizes}))
    return {
        "measured": [one.as_dict() for one in measured],
        "needs": [asdict(one) for one in needed],
        "served": served(mesh),
        "degrees": table(mesh.degrees),
    }


def _gathered(own: Any, processes: int, group: dist.ProcessGroup | None = None) -> list[Any]:
    everyone: list[Any] = [None] * processes
    dist.all_gather_object(everyone, own, group=group)
    return everyone
