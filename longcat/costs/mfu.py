"""Utilisation: how much of the hardware's peak a training run uses, under three conventions.

mfu                  useful work only: causal attention, routed experts as measured (zero-computation experts cost 0)
mfu_full_attention   attention over the whole square, as PaLM (arXiv 2204.02311) and the older A100 rows count it
hfu                  what the hardware does: mfu, and once more the forward pass of what is recomputed
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from longcat.costs.workload import Workload
from longcat.errors import DataError

Recomputation = Literal["none", "selective", "full"]
"""What is worked out again for the backward pass: nothing, attention's scores, or all layers."""


@dataclass(frozen=True)
class Speed:
    """What was measured, and the peak it is measured against."""

    tokens_per_second: float
    """Of all devices together."""
    devices: int
    sequence_length: int
    """Tokens that attention sees."""
    peak_flops: float | None
    """Of all devices together, FLOP/s; none when not known."""


@dataclass(frozen=True)
class Utilisation:
    """Fractions of the peak; none when no peak is known."""

    tokens_per_second: float
    """Of all devices together."""
    tflops_per_device: float
    flops_per_token: dict[str, float]
    """By component, causal."""
    mfu: float | None
    mfu_full_attention: float | None
    hfu: float | None


def utilisation(workload: Workload, speed: Speed, recomputation: Recomputation = "none") -> Utilisation:
    """Utilisation of a run.

    Args:
        workload: what was trained.
        speed: how fast, and on what.
        recomputation: in the backward pass.

    Raises:
        DataError: the MFU or the HFU is above 100 %, so an input is wrong; says what would be right.
    """
    tokens_per_second, devices, peak_flops = speed.tokens_per_second, speed.devices, speed.peak_flops
    parts = workload.flops(speed.sequence_length, "causal")
    useful = tokens_per_second * sum(part.training for part in parts.values())
    square = tokens_per_second * workload.training_flops(speed.sequence_length, "full")
    again = tokens_per_second * sum(part.forward for name, part in parts.items() if _recomputed(name, recomputation))
    if peak_flops is not None and useful > peak_flops:
        factor = useful / peak_flops
        raise DataError(
            f"an MFU of {100 * factor:.4g} % is impossible: {tokens_per_second:g} tokens/s of this model are "
            f"{useful / 1e12:.4g} TFLOP/s, and {devices} devices have {peak_flops / 1e12:.4g}; the speed is at most "
            f"{tokens_per_second / factor:,.6g} tokens/s, or there are at least {math.ceil(devices * factor):,} devices, "
            f"or the model, the sequence length or the peak is another"
        )
    if peak_flops is not None and useful + again > peak_flops:
        raise DataError(
            f"an HFU of {100 * (useful + again) / peak_flops:.4g} % is impossible: the MFU is "
            f"{100 * useful / peak_flops:.4g} %, and recomputation {recomputation} does not fit above it; either less is "
            f"recomputed, or the speed, the number of devices or the peak is another"
        )
    return Utilisation(
        tokens_per_second=tokens_per_second,
        tflops_per_device=useful / devices / 1e12,
        flops_per_token={name: part.training for name, part in parts.items()},
        mfu=None if peak_flops is None else useful / peak_flops,
        mfu_full_attention=None if peak_flops is None else square / peak_flops,
        hfu=None if peak_flops is None else (useful + again) / peak_flops,
    )


def _recomputed(component: str, recomputation: Recomputation) -> bool:
    if recomputation == "selective":
        return component == "attention_scores"
    return recomputation == "full" and component not in ("lm_head", "mtp")
