"""A process of the benchmark: `python -m longcat.benchmark.worker JOB.json`, started by torchrun, one per rank."""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from longcat.artifact import write_json
from longcat.benchmark import measuring
from longcat.benchmark.traffic import watched
from longcat.training import checkpoint
from longcat.training.balance import load_metrics
from longcat.training.given_weights import load_weights
from longcat.training.job import RESULT
from longcat.training.trainer import phase_of
from longcat.training.worker import Worker, run


def measure(worker: Worker) -> None:
    """Time and profile training steps from a given state; the updated weights are discarded."""
    if worker.job.start_from:
        checkpoint.load(Path(worker.job.start_from), worker.trainer.weights, worker.trainer.optimizers)
    elif worker.job.weights:
        load_weights(Path(worker.job.weights), worker.trainer.weights)
    settings, first = worker.config.benchmark, worker.config.training.steps
    peak_of = partial(measuring.machine_peak, worker.trainer.compute) if worker.accelerator.kind == "cpu" else None
    seconds, results, peaks = measuring.time_windows(worker.step, first, settings, worker.accelerator, peak_of)
    memory = measuring.memory(worker.trainer, worker.accelerator)
    first += len(results) + settings.warmup_steps
    phase = phase_of(first, worker.config.training)
    with watched(worker.mesh) as messages:
        worker.step(first)
    first += 1
    profiled = None
    if settings.profiled_steps:
        profiled = measuring.profile(
            worker.step, first, settings.profiled_steps, worker.accelerator, worker.directory, worker.mesh
        )
    tokens = worker.batch_tokens // worker.mesh.batch_world // max(1, worker.trainer.micro_batches)
    operators = measuring.operators(
        worker.config, tokens, worker.sequence_length, worker.trainer.compute, worker.mesh, worker.accelerator
    )
    collectives = measuring.collectives(settings.collective_bytes, messages, worker.mesh, worker.accelerator)
    peak = torch.tensor(float(memory["peak"]), device=worker.mesh.device)
    dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    if worker.mesh.rank == 0:
        experts = [load_metrics(one.expert_load, worker.config.model)["moe/ffn_experts_per_token"] for one in results]
        facts = {
            "window_seconds": seconds,
            "window_steps": settings.window_steps,
            "window_peak_flops": peaks,
            "batch_tokens": worker.batch_tokens,
            "sequence_length": worker.sequence_length,
            "ffn_experts_per_token": statistics.fmean(experts),
            "peak_memory_bytes": int(peak),
            "memory": memory,
            "breakdown": profiled,
            "operators": operators,
            "collectives": collectives,
            "micro_batches": worker.trainer.micro_batches,
            "phase": phase,
            "device_memory_bytes": worker.accelerator.memory_bytes,
            "device_kind": worker.accelerator.kind,
            "device_name": worker.accelerator.name,
        }
        write_json(worker.directory / RESULT, facts)
    dist.barrier()


if __name__ == "__main__":
    run(measure)
