"""The benchmark stage: time the trained model's steps, and set the MFU against published A100 runs."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longcat.accelerator import choose
from longcat.artifact import Artifact, Recipe, Workspace, write_json
from longcat.benchmark.comparison import nearest, verdict
from longcat.benchmark.hardware import peak
from longcat.benchmark.mfu import utilisation
from longcat.benchmark.references import references
from longcat.benchmark.report import write
from longcat.benchmark.workload import longcat_workload
from longcat.config import PipelineConfig, identity
from longcat.progress import Reporter, silent
from longcat.training import stage as training

STAGE_VERSION = 2


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
        A `benchmark` artifact: `result.json`, `report.html`, `report.md` and `mfu.png`.

    Raises:
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
        timed = training.measure(config, tokens, checkpoint, directory=directory / "processes", report=report)
        shutil.rmtree(directory / "processes")
        best = peak(accelerator, timed.precision)
        # a CPU's peak is the whole machine's, whatever the number of processes
        devices = 1 if accelerator.kind == "cpu" else timed.processes
        peak_flops = None if best is None else best.flops * devices
        seconds = statistics.median(timed.window_seconds)
        workload = longcat_workload(config.model, timed.ffn_experts_per_token)
        work = utilisation(
            workload,
            tokens_per_second=timed.window_steps * timed.batch_tokens / seconds,
            devices=timed.processes,
            sequence_length=timed.sequence_length,
            peak_flops=peak_flops,
        )
        activated = workload.activated_parameters - workload.embedding_parameters
        rows = nearest(activated, timed.processes, timed.sequence_length, config.benchmark.reference_rows)
        words, ratio = verdict(accelerator.kind, work.mfu_full_attention, rows)
        result = {
            **asdict(work),
            **asdict(timed),
            "spread": (max(timed.window_seconds) - min(timed.window_seconds)) / seconds,
            "peak_flops": peak_flops,
            "peak_source": None if best is None else best.source,
            "peak_measured": None if best is None else best.measured,
            "activated_parameters": activated,
            "verdict": words,
            "ratio_to_a100": ratio,
            "nearest": [asdict(row) for row in rows],
        }
        write_json(directory / "result.json", result)
        write(result, [asdict(row) for row in references()], directory)
        return {name: value for name, value in result.items() if name not in ("nearest", "window_seconds")}

    return workspace.materialize(recipe, build)
