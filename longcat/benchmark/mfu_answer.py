"""The answer of `longcat mfu`: a workload, a device and a speed in, utilisation and comparison out."""

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
_OWN_DEVICES = ("dp", "dp_shard", "dp_replicate", "fsdp", "tp", "sp", "cp", "pp")
_SAME_DEVICES = ("ep", "etp", "vpp")
"""Experts are spread over the devices of everything else but the pipeline's; virtual stages take none."""


def find_workload(model: str, ffn_experts: float | None = None, *, mtp: bool = False) -> Workload:
    """The workload of a preset, a config.json or a folder with one.

    Args:
        model: which.
        ffn_experts: mean routed experts of a token, as measured; for models with zero-computation experts.
        mtp: count DeepSeek's layers of multi-token prediction, too.

    Raises:
        ConfigError: it is none of these, or not to be used.
    """
    if model in preset_names():
        if mtp:
            raise ConfigError(f"preset {model} says itself whether it predicts several tokens; --mtp is for DeepSeek")
        config = load_config(model)
        wanted = target_ffn_experts(config.model, config.training.balance) if ffn_experts is None else ffn_experts
        return longcat_workload(config.model, wanted)
    path = Path(model).expanduser()
    if not path.exists():
        raise ConfigError(f"{model} is neither a file nor a preset; presets are {', '.join(preset_names())}")
    return read_workload(path, ffn_experts, mtp=mtp)


def check_layout(layout: str, devices: int) -> None:
    """See that degrees such as `tp8,pp4` or `dp=4,tp=2` go into the number of devices.

    Raises:
        ConfigError: they do not, or are not to be read.
    """
    degrees: dict[str, int] = {}
    for part in layout.replace(" ", "").split(","):
        found = re.fullmatch(r"([a-z_]+)[=:]?([1-9][0-9]{0,8})", part.lower())
        if not found:
            raise ConfigError(f"--layout {layout}: {part!r} is no degree such as tp8 or pp=4")
        if found[1] not in (*_OWN_DEVICES, *_SAME_DEVICES):
            raise ConfigError(
                f"--layout {layout}: there are {', '.join([*_OWN_DEVICES, *_SAME_DEVICES])}, no {found[1]}"
            )
        if found[1] in degrees:
            raise ConfigError(f"--layout {layout} has two degrees {found[1]}")
        degrees[found[1]] = int(found[2])
    taken = math.prod(degree for name, degree in degrees.items() if name in _OWN_DEVICES)
    if devices % taken or ("dp" in degrees and devices != taken):
        raise ConfigError(
            f"--layout {layout} takes {taken} devices{'' if 'dp' in degrees else ' or a multiple'}, not --devices {devices}"
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
    """Everything that can be said of a run.

    Args:
        workload: what is trained.
        device: its name in the table of hardware, or any name where `peak_tflops` is given.
        devices: how many.
        tokens_per_second: of all devices together.
        sequence_length: tokens that attention sees.
        precision: of the matrix products, whose peak counts.
        peak_tflops: of one device; the table's dense peak if none.
        recomputation: in the backward pass.

    Raises:
        ConfigError: a number that makes no sense, an unknown device, or one without a peak in this precision.
        DataError: the result is above 100 %.
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
        found = row.peak_flops(precision)
        if found is None:
            raise ConfigError(f"no {precision} peak of {row.name} is known; --peak-tflops does without the table")
        peak, source = found, f"{row.name}, dense {precision}: {row.source} (confidence {row.confidence})"
        measured = row.measured_gemm_flops if precision == "bf16" else None
    else:
        peak, source = peak_tflops * 1e12, "given"
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
