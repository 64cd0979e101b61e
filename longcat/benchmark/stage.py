"""The benchmark stage: time the trained model's steps, and set the MFU against published A100 runs."""

from __future__ import annotations

import itertools
import shutil
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from longcat.accelerator import Accelerator, choose
from longcat.artifact import Artifact, Recipe, Workspace, write_json
from longcat.benchmark.comparison import Subject, compare, subject
from longcat.benchmark.hardware import Peak, peak
from longcat.benchmark.mfu import Speed, Utilisation, utilisation
from longcat.benchmark.report import write
from longcat.benchmark.sweep import Point, configured, pareto, points, scaling
from longcat.benchmark.workload import longcat_workload
from longcat.config import PipelineConfig, identity
from longcat.corpus.shards import TokenCorpus
from longcat.errors import ConfigError, TrainingError
from longcat.progress import Reporter, silent
from longcat.training import stage as training
from longcat.training.measuring import TRACE

STAGE_VERSION = 4
_LARGE = ("comparison", "window_seconds", "breakdown", "operators", "collectives", "sweep", "scaling", "memory")


def benchmark(
    config: PipelineConfig,
    tokens: Artifact,
    checkpoint: Artifact,
    *,
    workspace: Workspace,
    report: Reporter = silent,
) -> Artifact:
    """Measure training throughput from a checkpoint's state and compare its MFU.

    A measurement is kept like any artifact; delete it to measure again.

    Returns:
        A `benchmark` artifact: `result.json`, `report.html`, `report.md`, `mfu.png`, and the profiler's `trace.json.gz`
        (Perfetto shows it).

    Raises:
        ConfigError: the sweep asks for what does not fit the batch.
        TrainingError: the timed processes failed.
    """
    import torch

    accelerator = choose(config.accelerator)
    recipe = Recipe(
        kind="benchmark",
        version=STAGE_VERSION,
        identity={
            "benchmark": identity(config.benchmark),
            "device": [accelerator.kind, accelerator.name, accelerator.count],
            "torch": torch.__version__,
        },
        parents=(tokens, checkpoint),
        sources=(Path(__file__).parent,),
    )

    def build(directory: Path) -> Mapping[str, Any]:
        processes = training.settle_layout(config, accelerator).processes
        wanted = points(config, TokenCorpus.open(tokens.path).sequence_length, processes)

        def measure(settings: PipelineConfig, length: int | None = None, note: str = "timing training steps") -> Any:
            folder = directory / "processes"
            shutil.rmtree(folder, ignore_errors=True)
            timed = training.measure(
                settings, tokens, checkpoint, directory=folder, report=report, sequence_length=length, note=note
            )
            return timed, *judge(settings, timed, accelerator)

        timed, speed, work, ours, best = measure(config)
        if (trace := directory / "processes" / TRACE).is_file():
            trace.rename(directory / TRACE)
        rows = []
        for number, point in enumerate(wanted, 1):
            note = f"timing setting {number} of {len(wanted)}"
            rows.append(_swept(point, partial(measure, configured(config, point), point.sequence_length_tokens, note)))
        shutil.rmtree(directory / "processes")
        comparison = compare(ours, accelerator=accelerator.kind != "cpu", count=config.benchmark.reference_rows)
        kernels = (timed.operators or {}).get("kernels", [])
        result = {
            **asdict(work),
            **asdict(timed),
            "kind": ours.kind,
            "recomputation": config.training.activation_checkpointing,
            "spread": _spread(timed),
            "peak_flops": speed.peak_flops,
            "peak_source": None if best is None else best.source,
            "peak_measured": None if best is None else best.measured,
            "measured_gemm_flops": max((k["flops_per_second"] for k in kernels if "GEMM" in k["name"]), default=None),
            "activated_parameters": ours.activated_parameters,
            "mfu_by_convention": dict(ours.mfu_by_convention),
            "comparison": comparison.as_dict(),
            "sweep": [row | {"pareto": best} for row, best in zip(rows, pareto(rows), strict=True)],
            "scaling": scaling(rows),
        }
        write_json(directory / "result.json", result)
        write(result, directory)
        facts = {name: value for name, value in result.items() if name not in _LARGE}
        if timed.breakdown is not None:
            whole = timed.breakdown["step_seconds"]
            facts |= {f"share_{name}": seconds / whole for name, seconds in timed.breakdown["parts"].items()}
        return facts | {"verdict": comparison.verdict, "ratio_to_a100": comparison.ratio}

    return workspace.materialize(recipe, build)


def judge(
    config: PipelineConfig, timed: training.Measurement, accelerator: Accelerator
) -> tuple[Speed, Utilisation, Subject, Peak | None]:
    """What the measured times mean."""
    rates = [timed.window_steps * timed.batch_tokens / seconds for seconds in timed.window_seconds]
    rate = statistics.median(rates)
    best: Peak | None
    if timed.window_peak_flops:
        # each window against the products before and after it: a busy machine slows both down
        around = [statistics.fmean(pair) for pair in itertools.pairwise(timed.window_peak_flops)]
        share = statistics.median(one / product for one, product in zip(rates, around, strict=True))
        source = f"measured: best {timed.precision} product of all processes at once, between the windows"
        best, devices = Peak(rate / share, source, measured=True), 1
    else:
        best, devices = peak(accelerator, timed.precision), timed.processes
    speed = Speed(
        tokens_per_second=rate,
        devices=timed.processes,
        sequence_length=timed.sequence_length,
        peak_flops=None if best is None else best.flops * devices,
    )
    workload = longcat_workload(config.model, timed.ffn_experts_per_token)
    work = utilisation(workload, speed, config.training.activation_checkpointing)
    return speed, work, subject(workload, speed, timed.precision), best


def _swept(point: Point, measure: Callable[[], Any]) -> dict[str, Any]:
    """A point with its figures, or why there are none: a setting that runs out of memory ends no sweep."""
    try:
        timed, _, work, *_ = measure()
    except (TrainingError, ConfigError) as error:
        return point.as_dict() | {"error": str(error).splitlines()[0]}
    return point.as_dict() | {
        "tokens_per_second": work.tokens_per_second,
        "tflops_per_device": work.tflops_per_device,
        "mfu": work.mfu,
        "peak_memory_bytes": timed.peak_memory_bytes,
        "spread": _spread(timed),
    }


def _spread(timed: training.Measurement) -> float:
    """Slowest minus fastest window, as a share of the median."""
    return (max(timed.window_seconds) - min(timed.window_seconds)) / statistics.median(timed.window_seconds)
