"""What measuring costs a training step, and how far two measurements of the same configuration lie apart.

    python benchmarks/measuring_overhead.py [--repeats 9] [--steps 6] [--measurements 4] [--json]

First, in one process: windows of bare optimizer steps of `tiny`, alternately with windows of steps as the benchmark takes
them (annotations, barriers, waiting for the device) and as training logs them (figures of each step, a line on disk,
throughput). The ratio is the median over pairs of neighbours. Then the benchmark's measurement of the same checkpoint,
again and again, with its MFU.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from flows.server import free_port
from longcat.accelerator import choose
from longcat.artifact import Artifact, Workspace
from longcat.benchmark.hardware import peak
from longcat.benchmark.mfu import Speed, utilisation
from longcat.benchmark.workload import longcat_workload
from longcat.config import PipelineConfig, load_config
from longcat.corpus.stage import preprocess
from longcat.parallel.mesh import join, leave
from longcat.training.job import Job, Layout
from longcat.training.measuring import time_windows
from longcat.training.metrics import MetricsFile
from longcat.training.stage import measure, pretrain
from longcat.training.worker import Worker


def overhead(config: PipelineConfig, tokens: Artifact, folder: Path, repeats: int, steps: int) -> dict[str, float]:
    """Ratios of a step's time to that of a bare step."""
    variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    os.environ.update({name: str(value) for name, value in variables.items()})
    accelerator = choose(config.accelerator)
    layout = Layout(accelerator.kind, 1, 1, "bf16" if accelerator.supports_bf16 else "fp32")
    folder.mkdir()
    job = Job("measure", config.model_dump(mode="json"), layout, str(tokens.path), str(folder))
    settings = config.benchmark.model_copy(update={"warmup_steps": 0, "windows": 1, "window_steps": steps})
    mesh = join(accelerator, 1, timeout_s=60)
    worker = Worker(job, mesh, accelerator)
    metrics = MetricsFile(folder / "metrics.jsonl", after_step=0)
    done = 0

    def bare() -> None:
        for step in range(done, done + steps):
            worker.trainer.step(step, worker.batches.batch(step))
        accelerator.synchronize()

    def measured() -> None:
        time_windows(worker.step, done, settings, accelerator)

    def logged() -> None:
        for step in range(done, done + steps):
            figures = worker._figures(worker.step(step), step)
            figures |= worker._throughput(1e3, figures["moe/ffn_experts_per_token"])
            metrics.append({"step": step + 1, "time": time.time(), "attempt": 0, **figures})
        accelerator.synchronize()

    def timed(call: Callable[[], None]) -> float:
        nonlocal done
        began = time.perf_counter()
        call()
        done += steps
        return time.perf_counter() - began

    timed(bare), timed(measured), timed(logged)
    ratios: dict[str, list[float]] = {"measured": [], "logged": []}
    for _ in range(repeats):
        for name, call in (("measured", measured), ("logged", logged)):
            before, itself, after = timed(bare), timed(call), timed(bare)
            ratios[name].append(2 * itself / (before + after))
    leave()
    return {name: statistics.median(values) for name, values in ratios.items()}


def repeated(config: PipelineConfig, tokens: Artifact, space: Workspace, count: int) -> list[float]:
    """MFU of the same checkpoint, measured so many times."""
    checkpoint = pretrain(config, tokens, workspace=space)
    found = []
    for number in range(count):
        timed = measure(config, tokens, checkpoint, directory=space.path / f"measure-{number}")
        best = peak(choose(config.accelerator), timed.precision)
        speed = timed.window_steps * timed.batch_tokens / statistics.median(timed.window_seconds)
        workload = longcat_workload(config.model, timed.ffn_experts_per_token)
        devices = Speed(speed, timed.processes, timed.sequence_length, best.flops if best else None)
        found.append(utilisation(workload, devices).mfu or 0.0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--measurements", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    quiet = ["benchmark.profiled_steps=0", "benchmark.kernel_seconds=0", "benchmark.collective_bytes=[]"]
    overrides = [
        "corpus.sources=[{kind: stdlib, max_documents: 300}]", "training.steps=10",
        "benchmark.warmup_steps=4", "benchmark.windows=7", "benchmark.window_steps=8", *quiet,
    ]  # fmt: skip
    config = load_config("tiny", None, overrides)
    with tempfile.TemporaryDirectory() as folder:
        space = Workspace(folder)
        tokens = preprocess(config, workspace=space)
        mfus = repeated(config, tokens, space, arguments.measurements)
        ratios = overhead(config, tokens, Path(folder) / "overhead", arguments.repeats, arguments.steps)
    between = max(mfus) / min(mfus) - 1
    if arguments.json:
        print(json.dumps({"ratios": ratios, "mfu": mfus, "apart": between}))
        return
    print(f"step as measured {ratios['measured']:.4f}, as logged {ratios['logged']:.4f} of a bare step")
    print(f"MFU {', '.join(f'{mfu:.2%}' for mfu in mfus)}: {between:.1%} apart")


if __name__ == "__main__":
    main()
