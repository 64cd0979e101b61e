"""The benchmark stage: time the trained model's steps, and set the MFU against published A100 runs."""

from __future__ import annotations

import itertools
import shutil
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longcat.artifact import Artifact, Facts, Recipe, Workspace, sha256_file, write_json
from longcat.benchmark.comparison import Subject, compare, subject
from longcat.benchmark.measurement import Measurement, measure, read_measurement
from longcat.benchmark.measuring import TRACE
from longcat.benchmark.references import TABLE as PUBLISHED
from longcat.benchmark.report import write
from longcat.benchmark.sweep import pareto, scaling
from longcat.config import PipelineConfig
from longcat.costs.hardware import TABLE as HARDWARE
from longcat.costs.mfu import Speed, Utilisation, utilisation
from longcat.costs.workload import longcat_workload
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.peak import Peak, device_peak
from longcat.progress import Reporter, silent
from longcat.provenance import code_of

STAGE_VERSION = 5


class BenchmarkFacts(Facts):
    """Key figures of a benchmark; the rest is in `result.json`."""

    tokens_per_second: float
    """Of all processes together."""
    tflops_per_device: float
    mfu: float | None
    """A fraction; None where the device's peak is not known. So are the next two."""
    mfu_full_attention: float | None
    hfu: float | None
    spread: float
    """Slowest minus fastest window, as a fraction of the median."""
    peak_flops: float | None
    """Of all processes together."""
    peak_source: str | None
    peak_memory_bytes: int
    device_kind: str
    device_name: str
    processes: int
    expert_parallel: int
    sequence_length: int
    precision: str
    total_parameters: int
    activated_parameters: float
    """Weights that a mean token is multiplied by."""
    formula_parameters: float
    """N in the formulas of others, see `longcat.costs.workload`."""
    step_fractions: dict[str, float]
    """Parts of a step, see `longcat.benchmark.breakdown.PARTS`; empty without profiled steps."""
    ratio_to_a100: float | None
    """Of our MFU to the median published one."""
    verdict: str
    measurement: str
    """Digest of the measurement that the figures come from."""

    @property
    def headline(self) -> str:
        """The utilisation and the speed."""
        mfu = "no MFU" if self.mfu is None else f"MFU {self.mfu:.1%}"
        return f"{mfu}, {self.tokens_per_second:,.0f} tokens/s"

    @property
    def figures(self) -> dict[str, float | None]:
        """The utilisation and the speed."""
        return {
            "mfu": self.mfu,
            "tokens_per_second": self.tokens_per_second,
            "tflops_per_device": self.tflops_per_device,
        }

    def remarks(self, artifact: Path) -> list[str]:
        """Return the verdict, and where the report is."""
        return [f"Verdict: {self.verdict}.", f"MFU report: {artifact / 'report.html'}"]


def benchmark(
    config: PipelineConfig,
    tokens: Artifact[Any],
    checkpoint: Artifact[CheckpointFacts],
    *,
    workspace: Workspace,
    report: Reporter = silent,
) -> Artifact[BenchmarkFacts]:
    """Measure training throughput from a checkpoint's state and compare its MFU.

    The measurement is an artifact of its own: a changed reference table makes a new report of the same measurement.

    Returns:
        A `benchmark` artifact: `result.json`, `report.html`, `report.md`, `mfu.png`, and the profiler's `trace.json.gz`
        (Perfetto shows it).

    Raises:
        ConfigError: the sweep asks for what does not fit the batch.
        TrainingError: the timed processes failed.
    """
    measurement = measure(config, tokens, checkpoint, workspace=workspace, report=report)
    recipe = Recipe(
        kind="benchmark",
        facts=BenchmarkFacts,
        version=STAGE_VERSION,
        identity={
            "reference_rows": config.benchmark.reference_rows,
            "tables": {path.name: sha256_file(path) for path in (HARDWARE, PUBLISHED)},
        },
        parents=(measurement,),
        sources=code_of(__name__),
    )

    def build(directory: Path) -> BenchmarkFacts:
        timed, sweep = read_measurement(measurement.path)
        workload = longcat_workload(config.model, timed.ffn_experts_per_token)
        speed, work, ours, best = summarise(config, timed)
        rows = [_swept(config, row) for row in sweep]
        comparison = compare(ours, accelerator=timed.device_kind != "cpu", count=config.benchmark.reference_rows)
        kernels = (timed.operators or {}).get("kernels", [])
        result = {
            **asdict(work),
            **asdict(timed),
            "kind": ours.kind,
            "recomputation": config.training.activation_checkpointing,
            "spread": timed.spread,
            "peak_flops": speed.peak_flops,
            "peak_source": None if best is None else best.source,
            "peak_measured": None if best is None else best.measured,
            "measured_gemm_flops": max((k["flops_per_second"] for k in kernels if "GEMM" in k["name"]), default=None),
            "total_parameters": workload.total_parameters,
            "activated_parameters": workload.activated_parameters,
            "formula_parameters": workload.formula_parameters,
            "mfu_by_convention": dict(ours.mfu_by_convention),
            "comparison": comparison.as_dict(),
            "sweep": [row | {"pareto": best} for row, best in zip(rows, pareto(rows), strict=True)],
            "scaling": scaling(rows),
        }
        write_json(directory / "result.json", result)
        write(result, directory)
        if (trace := measurement.path / TRACE).is_file():
            shutil.copyfile(trace, directory / TRACE)
        parts = {} if timed.breakdown is None else timed.breakdown["parts"]
        return BenchmarkFacts(
            **{name: result[name] for name in BenchmarkFacts.model_fields if name in result},
            step_fractions={name: seconds / timed.breakdown["step_seconds"] for name, seconds in parts.items()}
            if timed.breakdown is not None
            else {},
            ratio_to_a100=comparison.ratio,
            verdict=comparison.verdict,
            measurement=measurement.digest,
        )

    return workspace.materialize(recipe, build)


def summarise(config: PipelineConfig, timed: Measurement) -> tuple[Speed, Utilisation, Subject, Peak | None]:
    """Work out the speed, the utilisation and the subject of a comparison from a measurement, and the peak used."""
    rate = timed.tokens_per_second
    best: Peak | None
    if timed.window_peak_flops:
        # each window against the products before and after it: a busy machine slows both down
        rates = [timed.window_steps * timed.batch_tokens / seconds for seconds in timed.window_seconds]
        around = [statistics.fmean(pair) for pair in itertools.pairwise(timed.window_peak_flops)]
        per_flop = statistics.median(one / product for one, product in zip(rates, around, strict=True))
        source = f"measured: best {timed.precision} product of all processes at once, between the windows"
        best = Peak(rate / per_flop, source, measured=True)
    else:
        best = device_peak(timed.device_name, timed.precision)
    speed = Speed(
        tokens_per_second=rate,
        devices=timed.processes,
        sequence_length=timed.sequence_length,
        peak_flops=None if best is None else best.of(timed.processes),
    )
    workload = longcat_workload(config.model, timed.ffn_experts_per_token)
    work = utilisation(workload, speed, config.training.activation_checkpointing)
    return speed, work, subject(workload, speed, timed.precision), best


def _swept(config: PipelineConfig, row: dict[str, Any]) -> dict[str, Any]:
    """Return a setting of the sweep with its figures, or with the reason why it has none."""
    if "error" in row:
        return {**row["point"], "error": row["error"]}
    timed: Measurement = row["timed"]
    _, work, *_ = summarise(config, timed)
    return {
        **row["point"],
        "tokens_per_second": work.tokens_per_second,
        "tflops_per_device": work.tflops_per_device,
        "mfu": work.mfu,
        "peak_memory_bytes": timed.peak_memory_bytes,
        "spread": timed.spread,
    }
