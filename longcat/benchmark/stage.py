"""The benchmark stage: time the trained model's steps, and compare the MFU with published A100 runs."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar

from longcat.artifact import Artifact, Facts, Recipe, Workspace, sha256_file, write_json
from longcat.benchmark.bottleneck import axis_loads, exposed_shares, sentence
from longcat.benchmark.comparison import compare
from longcat.benchmark.holdings import whole_of
from longcat.benchmark.matching import Subject, several_nodes, subject
from longcat.benchmark.measurement import Measurement, measure, read_measurement
from longcat.benchmark.measuring import TRACE
from longcat.benchmark.products import Products, largest_products
from longcat.benchmark.references import TABLE as PUBLISHED
from longcat.benchmark.report import write
from longcat.benchmark.sweep import pareto, scaling
from longcat.benchmark.verdict import PublishedPeak, other_peaks
from longcat.config import ModelConfig, PipelineConfig
from longcat.costs.flops import recomputed_fractions
from longcat.costs.hardware import TABLE as HARDWARE
from longcat.costs.mfu import Recomputation, Speed, Utilisation, utilisation
from longcat.costs.workload import Workload, longcat_workload
from longcat.disk import copy_file
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.parallel.axes import Degrees
from longcat.peak import Peak, device_peak
from longcat.printable import percent
from longcat.progress import Reporter, no_progress
from longcat.provenance import code_of

STAGE_VERSION = 9


class BenchmarkFacts(Facts):
    """Key figures of a benchmark; the rest is in `result.json`."""

    SETTINGS: ClassVar[frozenset[str]] = frozenset(
        {"processes", "parallel", "sequence_length", "total_parameters", "formula_parameters", "peak_flops"}
    )

    tokens_per_second: float
    """Speed, summed over all processes."""
    tflops_per_device: float
    """Useful TFLOP/s per device, with causal attention."""
    mfu: float | None
    """Model FLOPs utilisation, causal attention, as a fraction; None where the device's peak is not known."""
    mfu_full_attention: float | None
    """The same with attention over the whole square."""
    hfu: float | None
    """Hardware FLOPs utilisation: with recomputation."""
    spread: float
    """Slowest minus fastest window, as a fraction of the median."""
    peak_flops: float | None
    """Peak FLOP/s, summed over all processes; None where not known."""
    peak_source: str | None
    """Where the peak is from."""
    peak_memory_bytes: int
    """Peak memory of the process that needed most."""
    device_kind: str
    """`npu`, `cuda` or `cpu`."""
    device_name: str
    """As the driver reports it."""
    processes: int
    """Training processes, one per device."""
    parallel: dict[str, int]
    """Degree of each axis of parallelism, by its name in the section `parallel`."""
    sequence_length: int
    """Tokens of a sequence."""
    precision: str
    """Type that was computed in: fp32 or bf16."""
    total_parameters: int
    """All of them."""
    activated_parameters: float
    """Weights that a mean token is multiplied by, without embedding and other look-ups."""
    formula_parameters: float
    """N in published formulas, see `longcat.costs.workload`."""
    step_fractions: dict[str, float]
    """Fraction of a step's time by part, see `longcat.benchmark.breakdown.PARTS`; empty without profiled steps."""
    axis_fractions: dict[str, float]
    """Time that each axis of parallelism needs at the bandwidth measured, as a fraction of a step."""
    exposed_fractions: dict[str, float]
    """Fraction of a profiled step that only waits for each axis, as a mean over processes."""
    bottleneck: str | None
    """Which axis is the bottleneck, in a sentence; None for one process."""
    ratio_to_a100: float | None
    """Median ratio of our MFU to that of the published A100 runs compared with; None without one, and on a CPU."""
    verdict: str
    """What the comparison with A100 runs says, in a sentence."""
    measurement: str
    """Digest of the measurement artifact that the figures come from."""

    @property
    def headline(self) -> str:
        """Return the utilisation and the speed."""
        mfu = "no MFU" if self.mfu is None else f"MFU {percent(self.mfu)}"
        return f"{mfu}, {self.tokens_per_second:,.0f} tokens/s"

    @property
    def figures(self) -> dict[str, float | None]:
        """Return the utilisation and the speed."""
        return {
            "mfu": self.mfu,
            "tokens_per_second": self.tokens_per_second,
            "tflops_per_device": self.tflops_per_device,
        }

    def remarks(self, artifact: Path) -> list[str]:
        """Return the verdict, the axis that is the bottleneck, and the path of the report."""
        axis = [] if self.bottleneck is None else [self.bottleneck]
        return [f"Verdict: {self.verdict}.", *axis, f"MFU report: {artifact / 'report.html'}"]


def benchmark(
    config: PipelineConfig,
    tokens: Artifact[Any],
    checkpoint: Artifact[CheckpointFacts],
    *,
    workspace: Workspace,
    report: Reporter = no_progress,
) -> Artifact[BenchmarkFacts]:
    """Measure training throughput from a checkpoint's state and compare its MFU with published runs.

    The measurement is a separate artifact: a changed reference table gives a new report of the same measurement.

    Returns:
        A `benchmark` artifact: `result.json`, `report.html`, `report.md`, `mfu.png`, and the profiler's `trace.json.gz`
        (open it in Perfetto).

    Raises:
        ConfigError: a setting of the sweep does not fit the batch.
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
        products = largest_products([timed, *(row["timed"] for row in sweep if "timed" in row)])
        recomputation = config.training.activation_checkpointing
        speed, work, ours, peak = summarise(workload, timed, recomputation, products, config.model)
        rows = [_swept(config.model, row, products) for row in sweep]
        loads = axis_loads(timed, config)
        comparison = compare(
            ours,
            accelerator=timed.device_kind != "cpu",
            count=config.benchmark.reference_rows,
            tokens_per_second=speed.tokens_per_second,
            peaks=[]
            if peak is None
            else [PublishedPeak(peak.flops, peak.source), *other_peaks(timed.device_name, timed.precision)],
        )
        result = {
            **asdict(work),
            **asdict(timed),
            "kind": ours.kind,
            "recomputation": recomputation,
            "spread": timed.spread,
            "peak_flops": speed.peak_flops,
            "peak_source": None if peak is None else peak.source,
            "peak_measured": None if peak is None else peak.measured,
            "measured_gemm_flops": products.per_process,
            "products": products.as_dict(),
            "total_parameters": workload.total_parameters,
            "activated_parameters": workload.activated_parameters,
            "formula_parameters": workload.formula_parameters,
            "mfu_by_convention": dict(ours.mfu_by_convention),
            "comparison": comparison.as_dict(),
            "step_seconds": timed.step_seconds,
            "layout": _layout(config, timed),
            "axes": [asdict(one) for one in loads],
            "bottleneck": sentence(loads),
            "sweep": [row | {"pareto": on_front} for row, on_front in zip(rows, pareto(rows), strict=True)],
            "scaling": scaling(rows),
        }
        write_json(directory / "result.json", result)
        write(result, directory)
        if (trace := measurement.path / TRACE).is_file():
            copy_file(trace, directory / TRACE)
        parts = {} if timed.breakdown is None else timed.breakdown["parts"]
        return BenchmarkFacts(
            **{name: result[name] for name in BenchmarkFacts.model_fields if name in result},
            step_fractions={name: seconds / timed.breakdown["step_seconds"] for name, seconds in parts.items()}
            if timed.breakdown is not None
            else {},
            axis_fractions={one.axis: one.step_share for one in loads},
            exposed_fractions=exposed_shares(timed.breakdown) or {},
            ratio_to_a100=comparison.ratio,
            verdict=comparison.verdict,
            measurement=measurement.digest,
        )

    return workspace.materialize(recipe, build)


def _layout(config: PipelineConfig, timed: Measurement) -> dict[str, Any]:
    """Return the degrees of the layout and what it divides."""
    asked = {field.name: timed.parallel[field.name] for field in fields(Degrees) if field.name in timed.parallel}
    spread = config.parallel.spreads_tables(
        timed.processes // timed.parallel.get("pipeline", 1), config.training.optimizer.lazy_ngram_moments
    )
    rows = timed.batch_tokens // timed.sequence_length
    return {
        "degrees": {"processes": timed.processes, **asked},
        "whole": asdict(whole_of(config.model, rows, timed.sequence_length, spread)),
    }


def summarise(
    workload: Workload,
    timed: Measurement,
    recomputation: Recomputation,
    products: Products | None = None,
    model: ModelConfig | None = None,
) -> tuple[Speed, Utilisation, Subject, Peak | None]:
    """Compute speed, utilisation and the subject of a comparison from a measurement; also returns the peak used.

    Args:
        workload: the model, with the routed experts per token that were measured.
        timed: the measurement.
        recomputation: in the backward pass of the timed steps.
        products: largest products that were seen on this machine, the largest of which is a CPU's peak; those of the
            measurement itself if None.
        model: that the workload is of, if LongCat's own training was timed: what it recomputes is known exactly.
    """
    rate = timed.tokens_per_second
    peak: Peak | None
    if timed.device_kind == "cpu":
        products = products or largest_products([timed])
        source = f"the largest {timed.precision} product measured on this machine: {products.machine_source}"
        peak = None if products.machine is None else Peak(products.machine, source, measured=True)
    else:
        peak = device_peak(timed.device_name, timed.precision)
    speed = Speed(
        tokens_per_second=rate,
        devices=timed.processes,
        sequence_length=timed.sequence_length,
        peak_flops=None if peak is None else peak.of(timed.processes),
    )
    fractions = None if model is None else recomputed_fractions(model, recomputation)
    work = utilisation(workload, speed, recomputation, fractions)
    ours = subject(
        workload,
        speed,
        timed.precision,
        recomputation=recomputation,
        several_nodes=several_nodes(timed.device_name, timed.processes),
        routing="dropless",
    )
    return speed, work, ours, peak


def _swept(model: ModelConfig, row: dict[str, Any], products: Products) -> dict[str, Any]:
    """Return a setting of the sweep with its figures, or with the error that prevented them."""
    if "error" in row:
        return {**row["point"], "error": row["error"]}
    timed: Measurement = row["timed"]
    workload = longcat_workload(model, timed.ffn_experts_per_token)
    _, work, *_ = summarise(workload, timed, row["point"]["activation_checkpointing"], products, model)
    return {
        **row["point"],
        "tokens_per_second": work.tokens_per_second,
        "tflops_per_device": work.tflops_per_device,
        "mfu": work.mfu,
        "peak_memory_bytes": timed.peak_memory_bytes,
        "spread": timed.spread,
    }
