"""Measurements of training, taken in the training processes themselves.

Windows of plain steps first, then steps under the profiler, so that measuring does not slow down what is measured.
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
        Seconds of each window; what the steps showed; what `between` gave before the first window and after each one.
    """
    for number in range(first, first + settings.warmup_steps):
        step(number)
    first += settings.warmup_steps
    seconds, results = [], []
    found = [] if between is None else [between()]
    for window in range(settings.windows):
        dist.barrier()
        accelerator.synchronize()
        began = time.perf_counter()
        begin = first + window * settings.window_steps
        results += [step(number) for number in range(begin, begin + settings.window_steps)]
        accelerator.synchronize()
        seconds.append(time.perf_counter() - began)
        if between is not None:
            found.append(between())
    return seconds, results, found


def machine_peak(compute: torch.dtype) -> float:
    """FLOP/s of the best product of all processes at once on a CPU.

    Taken between windows: others slow the machine down as they like, and steps and products alike.
    """
    best = best_product(_PRODUCT_SIZE, "bf16" if compute == torch.bfloat16 else "fp32", _PRODUCT_SECONDS)
    everyone = torch.tensor(best, dtype=torch.float64)
    dist.all_reduce(everyone)
    return float(everyone)


def profile(step: Step, first: int, count: int, accelerator: Accelerator, directory: Path) -> dict[str, Any] | None:
    """Breakdown of some steps in this process; the trace stays in the directory. Another process only takes part.

    Returns:
        The breakdown, or none where the profiler saw nothing, as under the emulator.
    """

    def one(number: int) -> None:
        with torch.profiler.record_function(STEP):
            step(number)
            accelerator.synchronize()

    one(first)  # the profiler's own start, and what is only done once after windows
    if dist.get_rank() != 0:
        for number in range(first + 1, first + 1 + count):
            one(number)
        return None
    plain = directory / "trace.json"
    with contextlib.chdir(directory):  # torch_npu's profiler leaves files where it stands
        with accelerator.profiler() as profiler:
            for number in range(first + 1, first + 1 + count):
                one(number)
        profiler.export_chrome_trace(str(plain))
    try:
        found = asdict(breakdown(read_trace(plain)))
    except DataError:
        return None
    (directory / TRACE).write_bytes(gzip.compress(plain.read_bytes(), 6))
    plain.unlink()
    return found


def memory(trainer: Trainer, accelerator: Accelerator) -> dict[str, int]:
    """Bytes of this process by what holds them; `rest` is the peak without them: activations, buffers, the libraries."""
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
    """The kernels' roofline and the memory's bandwidth, of one process while the others wait."""
    seconds = config.benchmark.kernel_seconds
    if not seconds:
        return None
    found = None
    if mesh.rank == 0:
        kernels = measure_kernels(config.model, tokens, sequence_length, compute, on, mesh.device, seconds_each=seconds)
        found = {
            "bandwidth": measure_bandwidth(on, mesh.device, seconds),
            "kernels": [
                asdict(one) | {"flops_per_second": one.flops_per_second, "intensity": one.intensity} for one in kernels
            ],
        }
    dist.barrier()
    return found


def collectives(sizes: list[int], mesh: ProcessMesh, accelerator: Accelerator) -> list[dict[str, Any]]:
    """Bandwidth of collectives inside a node and between nodes, as rank 0 sees them."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", mesh.processes))
    found: list[dict[str, Any]] = []
    if not sizes:
        return found
    for scope, ranks in scopes(mesh.processes, local):
        if mesh.rank in ranks:
            group = mesh.share(scope, tuple(ranks))
            measured = measure_collectives(group, accelerator, mesh.device, sizes, repeats=5, scope=scope)
            found += [
                asdict(one) | {"algorithm_bandwidth": one.algorithm_bandwidth, "bus_bandwidth": one.bus_bandwidth}
                for one in measured
            ]
        dist.barrier()
    return found
