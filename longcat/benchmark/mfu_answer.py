"""The answer of `longcat mfu`: utilisation and comparison, from a workload, a run and a speed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from longcat.benchmark.comparison import compare
from longcat.benchmark.cross_check import cross_check
from longcat.benchmark.logs.throughput import Throughput
from longcat.benchmark.matching import Routing, Subject, several_nodes, subject
from longcat.benchmark.verdict import PublishedPeak, other_peaks
from longcat.costs.hardware import HardwareRow, Precision, require_hardware
from longcat.costs.mfu import Recomputation, Speed, utilisation
from longcat.costs.workload import Workload
from longcat.errors import ConfigError, DataError

ROWS = 6
"""Published runs to compare with at most."""
_HIGH_FOR_A_MIXTURE = 0.5
"""MFU above which a mixture deserves a second look: no published one on A100s comes near."""


@dataclass(frozen=True)
class Run:
    """A training run, as the command line tells it."""

    device: str
    """Name in the table of hardware, or any name if `peak_tflops` is given."""
    devices: int
    sequence_length: int
    """Tokens that attention sees."""
    precision: Precision = "bf16"
    """Of the matrix products; selects the peak."""
    peak_tflops: float | None = None
    """PublishedPeak of one device; the table's dense peak if None."""
    recomputation: Recomputation = "none"
    """Part of the forward pass that is recomputed in the backward pass."""
    nodes: int | None = None
    """Number of nodes; None takes the usual size of a node of this device."""
    routing: Routing = ""
    """What a mixture does with the tokens of a crowded expert."""
    fine_tuning: bool | None = None
    """Whether it tunes a trained model; None where that is not said."""
    trainable_parameters: float | None = None
    """Parameters with a gradient, where the others are frozen."""


def answer(
    workload: Workload,
    run: Run,
    tokens_per_second: float,
    *,
    logged: Throughput | None = None,
) -> dict[str, Any]:
    """Compute the utilisation of a run and compare it with published runs.

    Args:
        workload: model that is trained.
        run: device, number of devices and what else is known of the run.
        tokens_per_second: speed, summed over all devices.
        logged: what its log tells, where the speed is from one.

    Returns:
        The answer as JSON values; MFU and HFU are fractions.

    Raises:
        ConfigError: a number is out of range, or the device or its peak in this precision is not known.
        DataError: the MFU or the HFU is above 100 %.
    """
    _check(run, tokens_per_second)
    row, peaks = _peaks(run)
    peak = peaks[0]
    trainable = run.trainable_parameters or (logged.trainable_parameters if logged is not None else None)
    trained = workload if trainable is None else workload.trained(trainable)
    length = run.sequence_length
    if logged is not None and logged.mean_length is not None:
        length = max(1, round(logged.mean_length))
    seen = replace(run, sequence_length=length)
    speed = Speed(tokens_per_second, run.devices, length, peak.flops * run.devices)
    if run.fine_tuning is False and trainable is not None:
        raise DataError(f"only {trainable:,.0f} parameters are trained, which is no --pre-training")
    try:
        work = utilisation(trained, speed, run.recomputation)
    except DataError as error:
        raise DataError(f"{error}; the tokens are from {logged.tokens_from}" if logged else str(error)) from None
    ours = subject(
        trained,
        speed,
        run.precision,
        recomputation=run.recomputation,
        several_nodes=several_nodes(run.device, run.devices) if run.nodes is None else run.nodes > 1,
        routing=run.routing,
        fine_tuning=_tunes(run, logged, trainable),
    )
    doubts, told = ((), {}) if logged is None else _by_the_log(trained, seen, logged, ours, peak)
    comparison = compare(
        ours,
        accelerator=True,
        count=ROWS,
        tokens_per_second=tokens_per_second,
        peaks=peaks,
        doubts=doubts,
    )
    return {
        **asdict(work),
        "family": workload.family,
        "kind": ours.kind,
        "total_parameters": workload.total_parameters,
        "activated_parameters": workload.activated_parameters,
        "formula_parameters": workload.formula_parameters,
        "trainable_parameters": trainable,
        "device": run.device,
        "devices": run.devices,
        "several_nodes": ours.several_nodes,
        "sequence_length": length,
        "precision": run.precision,
        "recomputation": run.recomputation,
        "fine_tuning": ours.fine_tuning,
        "peak_flops": peak.flops,
        "peak_source": peak.source,
        "measured_gemm_flops": row.measured_gemm_flops if row is not None and run.precision == "bf16" else None,
        "mfu_by_convention": dict(ours.mfu_by_convention),
        "comparison": comparison.as_dict(),
        "assumptions": [*trained.assumptions, *(logged.assumptions if logged is not None else ())],
        "doubts": list(doubts),
        "remarks": _remarks(row, ours.kind, work.mfu),
        **told,
    }


def _check(run: Run, tokens_per_second: float) -> None:
    """Refuse numbers that cannot be."""
    for name, value in (
        ("devices", run.devices), ("tokens per second", tokens_per_second), ("sequence length", run.sequence_length),
        ("peak TFLOP/s", 1.0 if run.peak_tflops is None else run.peak_tflops),
    ):  # fmt: skip
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name} must be above 0, found {value:g}")


def _by_the_log(
    workload: Workload, run: Run, logged: Throughput, ours: Subject, peak: PublishedPeak
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the reasons for no verdict that a log gives, and what it tells as JSON values."""
    doubts = logged.doubts
    if run.fine_tuning is None and not ours.fine_tuning and not logged.says_what_is_trained:
        doubts += (
            f"this log of {logged.kind} does not say whether a trained model is tuned, or weights are frozen: give "
            "--pre-training, --fine-tuning or --trainable-parameters",
        )
    told: dict[str, Any] = {"log": asdict(logged)}
    check = cross_check(
        workload,
        logged,
        devices=run.devices,
        sequence_length=run.sequence_length,
        peak_flops=peak.flops,
        recomputation=run.recomputation,
    )
    if check is not None:
        told["cross_check"] = asdict(check) | {"ratio": check.ratio}
        doubts = doubts if check.agrees else (*doubts, check.doubt)
    return doubts, told


def _tunes(run: Run, logged: Throughput | None, trainable: float | None) -> bool:
    """Return whether the run tunes a trained model: as was said, or as its log shows."""
    if run.fine_tuning is not None:
        return run.fine_tuning
    return trainable is not None or (logged is not None and logged.fine_tuning)


def _peaks(run: Run) -> tuple[HardwareRow | None, list[PublishedPeak]]:
    """Return the device's row and its published peaks; the first is the one to count with."""
    if run.peak_tflops is not None:
        return None, [PublishedPeak(run.peak_tflops * 1e12, "given by --peak-tflops")]
    row = require_hardware(run.device)
    flops = row.peak_flops(run.precision)
    if flops is None:
        raise ConfigError(f"the {run.precision} peak of {row.name} is not known; give it with --peak-tflops")
    source = f"{row.name}, dense {run.precision}: {row.source} (confidence {row.confidence})"
    return row, [PublishedPeak(flops, source), *other_peaks(run.device, run.precision)]


def _remarks(row: HardwareRow | None, kind: str, mfu: float | None) -> list[str]:
    """Return what a reader should look at twice."""
    remarks = []
    if row is not None and row.per_package > 1:
        remarks.append(
            f"a device is one of the {row.per_package} dies of a package, as the driver counts; "
            "vendors' figures are often per package"
        )
    if kind == "moe" and mfu is not None and mfu > _HIGH_FOR_A_MIXTURE:
        remarks.append(f"{mfu:.1%} is more than any published mixture reaches on A100s: check speed, model and devices")
    return remarks
