"""Cost of measuring for a training step, and spread of repeated measurements of the same configuration.

    python benchmarks/measuring_overhead.py [--steps 40] [--measurements 4] [--json]

First, in one process, all work besides training is timed between the steps of `tiny` and compared with them: the metrics
of each step, their line on disk and the throughput, as in pre-training; and the annotations, the barrier and the
synchronisation of a benchmark window, as if every step were a window. Then the benchmark's measurement of the same
checkpoint is repeated, with its MFU.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

from longcat.accelerator import choose
from longcat.artifact import Artifact, Workspace
from longcat.benchmark.measurement import time_steps
from longcat.benchmark.stage import summarise
from longcat.config import PipelineConfig, load_config
from longcat.corpus.stage import preprocess
from longcat.costs.workload import longcat_workload
from longcat.parallel.axes import Degrees
from longcat.parallel.mesh import end_process, join, leave
from longcat.processes.child import free_port
from longcat.training.job import Job
from longcat.training.layout import ParallelLayout
from longcat.training.metrics import MetricsFile
from longcat.training.regions import DATA, OPTIMIZER
from longcat.training.stage import pretrain
from longcat.training.worker import Worker


def overhead(config: PipelineConfig, tokens: Artifact, folder: Path, steps: int) -> dict[str, float]:
    """Measure the time of all work besides training, as a fraction of a step's time."""
    variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    os.environ.update({name: str(value) for name, value in variables.items()})
    accelerator = choose(config.accelerator)
    layout = ParallelLayout(accelerator.kind, Degrees(), "bf16" if accelerator.supports_bf16 else "fp32")
    folder.mkdir()
    job = Job(config.model_dump(mode="json"), layout, str(tokens.path), str(folder))
    mesh = join(accelerator, layout.degrees, timeout_s=60)
    worker = Worker(job, mesh, accelerator)
    metrics = MetricsFile(folder / "metrics.jsonl", after_step=0)
    training, logging, measuring = [], [], []
    for step in range(steps):
        times = [time.perf_counter()]
        result = worker.trainer.step(step, worker.batches.batch(step))
        accelerator.synchronize()
        times.append(time.perf_counter())
        figures = worker._metrics(result, step)
        figures |= worker._throughput(1e3, figures["moe/ffn_experts_per_token"])
        metrics.append({"step": step + 1, "time": time.time(), "attempt": 0, **figures})
        times.append(time.perf_counter())
        dist.barrier()
        accelerator.synchronize()
        for name in (DATA, OPTIMIZER):
            with torch.profiler.record_function(name):
                pass
        times.append(time.perf_counter())
        for kind, (begin, end) in zip((training, logging, measuring), itertools.pairwise(times), strict=True):
            kind.append(end - begin)
    leave()
    of = statistics.median(training)
    return {"logging": statistics.median(logging) / of, "measuring": statistics.median(measuring) / of}


def repeated(config: PipelineConfig, tokens: Artifact, space: Workspace, count: int) -> list[float]:
    """Measure the MFU of the same checkpoint several times."""
    checkpoint = pretrain(config, tokens, workspace=space)
    found = []
    for number in range(count):
        timed = time_steps(config, tokens, checkpoint, directory=space.path / f"measure-{number}")
        workload = longcat_workload(config.model, timed.ffn_experts_per_token)
        _, work, *_ = summarise(workload, timed, config.training.activation_checkpointing, None, config.model)
        found.append(work.mfu or 0.0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--measurements", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    quiet = ["benchmark.profiled_steps=0", "benchmark.kernel_seconds=0", "benchmark.collective_bytes=[]"]
    overrides = [
        "corpus.sources=[{kind: stdlib, max_documents: 300}]", "training.steps=10",
        "benchmark.warmup_steps=4", "benchmark.windows=30", "benchmark.window_steps=3", *quiet,
    ]  # fmt: skip
    config = load_config("tiny", None, overrides)
    with tempfile.TemporaryDirectory() as folder:
        space = Workspace(folder)
        tokens = preprocess(config, workspace=space)
        mfus = repeated(config, tokens, space, arguments.measurements)
        fractions = overhead(config, tokens, Path(folder) / "overhead", arguments.steps)
    between = max(mfus) / min(mfus) - 1
    if arguments.json:
        print(json.dumps({"fractions": fractions, "mfu": mfus, "spread": between}))
        return
    print(f"beside a step: logging {fractions['logging']:.2%}, measuring {fractions['measuring']:.2%} of its time")
    print(f"MFU {', '.join(f'{mfu:.2%}' for mfu in mfus)}: {between:.1%} apart")


if __name__ == "__main__":
    main()
    end_process()
