"""Measurements of training steps, taken inside the training processes.

Windows of plain steps come first, steps under the profiler after them, so that profiling does not slow the timed steps.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from longcat.accelerator import Accelerator
from longcat.benchmark.breakdown import breakdown, read_trace
from longcat.benchmark.collectives import measure_collectives, scopes
from longcat.benchmark.kernels import measure_bandwidth, measure_kernels
from longcat.config import BenchmarkConfig, PipelineConfig
from longcat.errors import DataError
from longcat.parallel.mesh import ProcessMesh
from longcat.peak import best_product
from longcat.training.regions import STEP
from longcat.training.trainer import StepResult, Trainer

TRACE = "trace.json.gz"
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

    It is called between windows, so that other load on the machine slows steps and products equally.
    """
    best = best_product(_PRODUCT_SIZE, "bf16" if compute == torch.bfloat16 else "fp32", _PRODUCT_SECONDS)
    total = torch.tensor(best, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total)


def profile(step: Step, first: int, count: int, accelerator: Accelerator, directory: Path) -> dict[str, Any] | None:
    """Profile `count` steps on rank 0; other ranks run the same steps unprofiled. The trace stays in the directory.

    Returns:
        The breakdown on rank 0; None on other ranks, and where the profiler recorded nothing, as under the emulator.
    """

    def one(number: int) -> None:
        with torch.profiler.record_function(STEP):
            step(number)
            accelerator.synchronize()

    one(first)  # warm-up: one-time work after the windows
    if dist.get_rank() != 0:
        for number in range(first + 1, first + 1 + count):
            one(number)
        return None
    plain = directory / "trace.json"
    with contextlib.chdir(directory):  # torch_npu's profiler leaves files in the working directory
        with accelerator.profiler() as profiler:
            for number in range(first + 1, first + 1 + count):
                one(number)
        profiler.export_chrome_trace(str(plain))
    try:
        parts = asdict(breakdown(read_trace(plain)))
    except DataError:
        return None
    (directory / TRACE).write_bytes(gzip.compress(plain.read_bytes(), 6))
    plain.unlink()
    return parts


def memory(trainer: Trainer, accelerator: Accelerator) -> dict[str, int]:
    """Count the bytes of this process by use; `rest` is the remainder of the peak: activations, buffers, libraries."""
    parameters = list({id(one): one for of in (trainer.model, trainer.weights) for one in of.parameters()}.values())
    states = [
        value for optimizer in trainer.optimizers for state in optimizer.state.values() for value in state.values()
    ]
    parts = {
        "weights": sum(_bytes(parameter) for parameter in parameters),
        "gradients": sum(_bytes(parameter.grad) for parameter in parameters if parameter.grad is not None),
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
    """Measure kernels and memory bandwidth on rank 0 while the other ranks wait; None elsewhere, or if switched off."""
    seconds = config.benchmark.kernel_seconds
    if not seconds:
        return None
    measured = None
    if mesh.rank == 0:
        kernels = measure_kernels(config.model, tokens, sequence_length, compute, on, mesh.device, seconds_each=seconds)
        measured = {
            "bandwidth": measure_bandwidth(on, mesh.device, seconds),
            "kernels": [
                asdict(one) | {"flops_per_second": one.flops_per_second, "intensity": one.intensity} for one in kernels
            ],
        }
    dist.barrier()
    return measured


def collectives(sizes: list[int], mesh: ProcessMesh, accelerator: Accelerator) -> list[dict[str, Any]]:
    """Measure the bandwidth of collectives inside a node and between nodes; a rank returns those of its own groups."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", mesh.processes))
    rows: list[dict[str, Any]] = []
    if not sizes:
        return rows
    for scope, ranks in scopes(mesh.processes, local):
        if mesh.rank in ranks:
            group = mesh.share(scope, tuple(ranks))
            measured = measure_collectives(group, accelerator, mesh.device, sizes, repeats=5, scope=scope)
            rows += [
                asdict(one) | {"algorithm_bandwidth": one.algorithm_bandwidth, "bus_bandwidth": one.bus_bandwidth}
                for one in measured
            ]
        dist.barrier()
    return rows
