"""The answer of `longcat mfu`: utilisation and comparison, from a workload, a device and a speed."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longcat.benchmark.comparison import compare, subject
from longcat.config import load_config, preset_names, target_ffn_experts
from longcat.costs.families import read_workload
from longcat.costs.hardware import Precision, require_hardware
from longcat.costs.mfu import Recomputation, Speed, utilisation
from longcat.costs.workload import Workload, longcat_workload
from longcat.errors import ConfigError

ROWS = 6
"""Published runs to compare with at most."""
_OWN_DEVICES = ("dp", "dp_shard", "dp_replicate", "fsdp", "tp", "sp", "cp", "pp")
_SAME_DEVICES = ("ep", "etp", "vpp")
"""Degrees that take no devices of their own: experts and virtual stages use the devices of other axes."""


def find_workload(model: str, ffn_experts: float | None = None, *, mtp: bool = False) -> Workload:
    """Read the workload of a preset, a config.json or a folder with one.

    Args:
        model: name of a preset, or a path.
        ffn_experts: mean routed experts per token, as measured; for models with zero-computation experts.
        mtp: count DeepSeek's layers of multi-token prediction as well.

    Raises:
        ConfigError: the model is not found or its configuration cannot be used.
    """
    if model in preset_names():
        if mtp:
            raise ConfigError(
                f"preset {model} already sets its multi-token prediction; --mtp is for DeepSeek's config.json"
            )
        config = load_config(model)
        target = target_ffn_experts(config.model, config.training.balance) if ffn_experts is None else ffn_experts
        return longcat_workload(config.model, target)
    path = Path(model).expanduser()
    if not path.exists():
        raise ConfigError(f"{model} is neither a file nor a preset; the presets are {', '.join(preset_names())}")
    return read_workload(path, ffn_experts, mtp=mtp)


def check_layout(layout: str, devices: int) -> None:
    """Check that degrees such as `tp8,pp4` or `dp=4,tp=2` fit the number of devices.

    Raises:
        ConfigError: they do not fit, or cannot be parsed.
    """
    degrees: dict[str, int] = {}
    for part in layout.replace(" ", "").split(","):
        match = re.fullmatch(r"([a-z_]+)[=:]?([1-9][0-9]{0,8})", part.lower())
        if not match:
            raise ConfigError(f"--layout {layout}: {part!r} is not a degree such as tp8 or pp=4")
        if match[1] not in (*_OWN_DEVICES, *_SAME_DEVICES):
            raise ConfigError(
                f"--layout {layout}: unknown degree {match[1]}; there are: {', '.join([*_OWN_DEVICES, *_SAME_DEVICES])}"
            )
        if match[1] in degrees:
            raise ConfigError(f"--layout {layout} has the degree {match[1]} twice")
        degrees[match[1]] = int(match[2])
    needed = math.prod(degree for name, degree in degrees.items() if name in _OWN_DEVICES)
    if devices % needed or ("dp" in degrees and devices != needed):
        raise ConfigError(
            f"--layout {layout} takes {needed} devices{'' if 'dp' in degrees else ' or a multiple'}, not --devices {devices}"
        )
    experts = math.prod(degrees.get(name, 1) for name in ("pp", "ep", "etp"))
    if devices % experts:
        raise ConfigError(f"--layout {layout}: experts take {experts} devices or a multiple, not --devices {devices}")


def answer(
    workload: Workload,
    *,
    device: str,
    devices: int,
    tokens_per_second: float,
    sequence_length: int,
    precision: Precision = "bf16",
    peak_tflops: float | None = None,
    recomputation: Recomputation = "none",
) -> dict[str, Any]:
    """Compute the utilisation of a run and compare it with published runs.

    Args:
        workload: model that is trained.
        device: name in the table of hardware, or any name if `peak_tflops` is given.
        devices: number of devices.
        tokens_per_second: speed, summed over all devices.
        sequence_length: tokens that attention sees.
        precision: precision of the matrix products; selects the peak.
        peak_tflops: peak of one device; the table's dense peak if None.
        recomputation: part of the forward pass that is recomputed in the backward pass.

    Returns:
        The answer as JSON values; MFU and HFU are fractions.

    Raises:
        ConfigError: a number is out of range, or the device or its peak in this precision is not known.
        DataError: the MFU or the HFU is above 100 %.
    """
    for name, value in (
        ("devices", devices), ("tokens per second", tokens_per_second), ("sequence length", sequence_length),
        ("peak TFLOP/s", 1.0 if peak_tflops is None else peak_tflops),
    ):  # fmt: skip
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name} must be above 0, found {value:g}")
    measured: float | None = None
    if peak_tflops is None:
        row = require_hardware(device)
        table_peak = row.peak_flops(precision)
        if table_peak is None:
            raise ConfigError(f"the {precision} peak of {row.name} is not known; give it with --peak-tflops")
        peak, source = table_peak, f"{row.name}, dense {precision}: {row.source} (confidence {row.confidence})"
        measured = row.measured_gemm_flops if precision == "bf16" else None
    else:
        peak, source = peak_tflops * 1e12, "given by --peak-tflops"
    speed = Speed(tokens_per_second, devices, sequence_length, peak * devices)
    work = utilisation(workload, speed, recomputation)
    ours = subject(workload, speed, precision)
    return {
        **asdict(work),
        "family": workload.family,
        "kind": ours.kind,
        "total_parameters": workload.total_parameters,
        "activated_parameters": workload.activated_parameters,
        "formula_parameters": workload.formula_parameters,
        "device": device,
        "devices": devices,
        "sequence_length": sequence_length,
        "precision": precision,
        "recomputation": recomputation,
        "peak_flops": peak,
        "peak_source": source,
        "measured_gemm_flops": measured,
        "mfu_by_convention": dict(ours.mfu_by_convention),
        "comparison": compare(ours, accelerator=True, count=ROWS).as_dict(),
        "assumptions": list(workload.assumptions),
    }
