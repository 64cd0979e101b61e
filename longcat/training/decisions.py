"""What is settled before training begins, and why, for people."""

from __future__ import annotations

from longcat.accelerator import Accelerator, npu_problem
from longcat.config import PipelineConfig, target_ffn_experts
from longcat.costs.workload import longcat_workload
from longcat.ops.operators import OPERATORS
from longcat.printable import large_count, short_count
from longcat.training.layout import ParallelLayout, settle_layout, training_device


def decisions(config: PipelineConfig) -> dict[str, str]:
    """Return what a configuration and this machine come to: device, layout, precision, kernels, model and work.

    Raises:
        DeviceError: the accelerator that was asked for cannot be used here.
        ConfigError: the layout does not fit the machine or the batch.
    """
    accelerator = training_device(config)
    layout = settle_layout(config, accelerator)
    return {
        "device": _device(config, accelerator),
        "layout": _layout(config, layout),
        "precision": _precision(config, layout, accelerator),
        "kernels": _kernels(config, accelerator),
        **_bits(config, accelerator),
        **_work(config),
    }


def _device(config: PipelineConfig, accelerator: Accelerator) -> str:
    found = f"{accelerator.kind}, {accelerator.name}"
    if accelerator.kind != "cpu":
        return f"{accelerator.count} x {found}"
    if config.accelerator == "cpu":
        return f"{found} (accelerator=cpu)"
    return f"{found} (accelerator=auto: no CUDA device, no NPU: {npu_problem()})"


def _layout(config: PipelineConfig, layout: ParallelLayout) -> str:
    axes = ", ".join(f"{name} {degree}" for name, degree in layout.degrees.by_axis.items() if degree > 1)
    processes = layout.degrees.processes
    why = "" if config.training.processes else "; training.processes=0 leaves their number to the machine"
    return f"{processes} process{'es' if processes > 1 else ''}" + (f": {axes}" if axes else "") + why


def _precision(config: PipelineConfig, layout: ParallelLayout, accelerator: Accelerator) -> str:
    if config.training.precision != "auto":
        return f"{layout.precision} (training.precision)"
    return f"{layout.precision} (training.precision=auto: {accelerator.name} has {'' if accelerator.supports_bf16 else 'no '}bf16)"


def _kernels(config: PipelineConfig, accelerator: Accelerator) -> str:
    refused = set(config.training.reference_operators)
    have = {name for name, one in OPERATORS.items() if accelerator.kind in one.implementations}
    parts = {
        f"of {accelerator.kind}": sorted(have - refused),
        "reference, as training.reference_operators says": sorted(refused & have),
        f"reference, as there is none for {accelerator.kind}": sorted(OPERATORS.keys() - have),
    }
    return "; ".join(f"{where}: {', '.join(names)}" for where, names in parts.items() if names)


def _bits(config: PipelineConfig, accelerator: Accelerator) -> dict[str, str]:
    if accelerator.repeats_bits:
        return {}
    told = f"{accelerator.kind} adds up the gradient of attention in any order: a run does not repeat to the bit"
    searched = ", and silent corruption is looked for in copies of weights only"
    return {"bits": told + (searched if config.training.check_every_steps else "")}


def _work(config: PipelineConfig) -> dict[str, str]:
    training, length = config.training, config.corpus.sequence_length_tokens
    workload = longcat_workload(config.model, target_ffn_experts(config.model, training.balance))
    tokens = training.steps * training.global_batch_sequences * length
    each = workload.training_flops(length)
    return {
        "model": f"{large_count(workload.total_parameters)} parameters, of which a token activates "
        f"{large_count(workload.activated_parameters)}",
        "training": f"{training.steps:,} steps of {training.global_batch_sequences:,} x {length:,} tokens: "
        f"{short_count(tokens)} tokens",
        "work": f"{_flop(each)} a token, {_flop(each * tokens)} in all; "
        "how long that takes is told after the first steps",
    }


def _flop(count: float) -> str:
    """Return a count of FLOP with the prefix that suits it."""
    size, prefix = next(
        ((size, prefix) for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")) if count >= size),
        (1e6, "M"),
    )
    return f"{count / size:,.3g} {prefix}FLOP"
