"""Utilisation: the fraction of the hardware's peak that a training run uses, by three conventions.

mfu                  useful work only: causal attention, routed experts as measured (zero-computation experts cost 0)
mfu_full_attention   attention over the whole square, as PaLM (arXiv 2204.02311) and the older A100 rows count it
hfu                  all work of the hardware: mfu, plus a second forward pass of the recomputed components
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from longcat.costs.workload import Workload
from longcat.errors import DataError

Recomputation = Literal["none", "selective", "full"]
"""Part of the forward pass that is recomputed in the backward pass: nothing, attention scores, or all layers."""


@dataclass(frozen=True)
class Speed:
    """Speed of a training run, and the peak it is measured against."""

    tokens_per_second: float
    """Summed over all devices."""
    devices: int
    sequence_length: int
    """Tokens that attention sees."""
    peak_flops: float | None
    """Peak FLOP/s, summed over all devices; None where not known."""


@dataclass(frozen=True)
class Utilisation:
    """Utilisation of a run, as fractions of the peak; None where the peak is not known."""

    tokens_per_second: float
    """Summed over all devices."""
    tflops_per_device: float
    """Useful TFLOP/s per device, with causal attention."""
    flops_per_token: dict[str, float]
    """FLOP per training token, forward and backward, by component, with causal attention."""
    mfu: float | None
    """Useful work, causal attention."""
    mfu_full_attention: float | None
    """Useful work, attention over the whole square."""
    hfu: float | None
    """Useful work and recomputation, causal attention."""


def utilisation(
    workload: Workload,
    speed: Speed,
    recomputation: Recomputation = "none",
    fractions: Mapping[str, float] | None = None,
) -> Utilisation:
    """Compute the utilisation of a run.

    Args:
        workload: model that was trained.
        speed: measured speed, and the peak.
        recomputation: part of the forward pass that is recomputed in the backward pass.
        fractions: of the components' forward passes that are recomputed, where they are known better.

    Raises:
        DataError: the MFU or the HFU is above 100 %, so an input is wrong; the message gives possible values.
    """
    tokens_per_second, devices, peak_flops = speed.tokens_per_second, speed.devices, speed.peak_flops
    parts = workload.flops(speed.sequence_length, "causal")
    useful = tokens_per_second * sum(part.training for part in parts.values())
    square = tokens_per_second * workload.training_flops(speed.sequence_length, "full")
    recomputed = tokens_per_second * recomputed_flops(workload, speed.sequence_length, recomputation, fractions)
    if peak_flops is not None and useful > peak_flops:
        factor = useful / peak_flops
        raise DataError(
            f"an MFU of {100 * factor:.4g} % is impossible: {tokens_per_second:g} tokens/s of this model are "
            f"{useful / 1e12:.4g} TFLOP/s, and {devices} devices have {peak_flops / 1e12:.4g}; the speed is at most "
            f"{tokens_per_second / factor:,.6g} tokens/s, or there are at least {math.ceil(devices * factor):,} devices, "
            f"or the model, the sequence length or the peak is wrong"
        )
    if peak_flops is not None and useful + recomputed > peak_flops:
        raise DataError(
            f"an HFU of {100 * (useful + recomputed) / peak_flops:.4g} % is impossible: the MFU is "
            f"{100 * useful / peak_flops:.4g} %, and recomputation {recomputation} does not fit above it; either less is "
            f"recomputed, or the speed, the number of devices or the peak is wrong"
        )
    return Utilisation(
        tokens_per_second=tokens_per_second,
        tflops_per_device=useful / devices / 1e12,
        flops_per_token={name: part.training for name, part in parts.items()},
        mfu=None if peak_flops is None else useful / peak_flops,
        mfu_full_attention=None if peak_flops is None else square / peak_flops,
        hfu=None if peak_flops is None else (useful + recomputed) / peak_flops,
    )


def recomputed_flops(
    workload: Workload,
    sequence_length: int,
    recomputation: Recomputation,
    fractions: Mapping[str, float] | None = None,
) -> float:
    """Return the FLOP of one token that the backward pass computes a second time; see `utilisation`."""
    parts = workload.flops(sequence_length, "causal")
    if fractions is not None:
        return sum(fractions.get(name, 0.0) * part.forward for name, part in parts.items())
    return sum(part.forward for name, part in parts.items() if _recomputed(name, recomputation))


def _recomputed(component: str, recomputation: Recomputation) -> bool:
    if recomputation == "selective":
        return component == "attention_scores"
    return recomputation == "full" and component not in ("lm_head", "mtp")
