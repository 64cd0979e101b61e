"""The answer of `longcat mfu`: a workload, a device and a speed in, utilisation and comparison out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from longcat.benchmark.comparison import nearest, verdict
from longcat.benchmark.conventions import side_by_side
from longcat.benchmark.families import read_workload
from longcat.benchmark.hardware import require_hardware
from longcat.benchmark.mfu import Recomputation, utilisation
from longcat.benchmark.workload import Workload, longcat_workload
from longcat.config import load_config, preset_names, target_ffn_experts
from longcat.errors import ConfigError

ROWS = 5


def find_workload(model: str, ffn_experts: float | None = None) -> Workload:
    """The workload of a preset, a config.json or a folder with one.

    Args:
        model: which.
        ffn_experts: mean routed experts of a token, as measured; for models with zero-computation experts.

    Raises:
        ConfigError: it is none of these, or not to be used.
    """
    if model in preset_names():
        config = load_config(model)
        wanted = target_ffn_experts(config.model, config.training.balance) if ffn_experts is None else ffn_experts
        return longcat_workload(config.model, wanted)
    path = Path(model).expanduser()
    if not path.exists():
        raise ConfigError(f"{model} is neither a file nor a preset; presets are {', '.join(preset_names())}")
    return read_workload(path, ffn_experts)


def answer(
    workload: Workload,
    *,
    device: str,
    devices: int,
    tokens_per_second: float,
    sequence_length: int,
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
        peak_tflops: of one device; the table's dense bf16 peak if none.
        recomputation: in the backward pass.

    Raises:
        ConfigError: a number that makes no sense, or an unknown device.
        DataError: the result is above 100 %.
    """
    for name, value in (
        ("devices", devices), ("tokens per second", tokens_per_second), ("sequence length", sequence_length),
        ("peak TFLOP/s", 1.0 if peak_tflops is None else peak_tflops),
    ):  # fmt: skip
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name} must be above 0, found {value:g}")
    if peak_tflops is None:
        row = require_hardware(device)
        peak, source = row.bf16_flops, f"{row.name}, dense bf16: {row.source} (confidence {row.confidence})"
    else:
        peak, source = peak_tflops * 1e12, "given"
    work = utilisation(
        workload,
        tokens_per_second=tokens_per_second,
        devices=devices,
        sequence_length=sequence_length,
        peak_flops=peak * devices,
        recomputation=recomputation,
    )
    # an n-gram table would make a model look larger than what it computes with
    matrices = workload.activated_parameters - workload.embedding_parameters
    rows = nearest(matrices, devices, sequence_length, ROWS)
    words, ratio = verdict("npu", work.mfu_full_attention, rows)
    return {
        **asdict(work),
        "family": workload.family,
        "total_parameters": workload.total_parameters,
        "activated_parameters": workload.activated_parameters,
        "device": device,
        "devices": devices,
        "sequence_length": sequence_length,
        "recomputation": recomputation,
        "peak_flops": peak,
        "peak_source": source,
        "mfu_by_convention": {
            name: flops * tokens_per_second / (peak * devices)
            for name, flops in side_by_side(workload, sequence_length).items()
        },
        "nearest": [asdict(row) for row in rows],
        "verdict": words,
        "ratio_to_a100": ratio,
        "assumptions": list(workload.assumptions),
    }
