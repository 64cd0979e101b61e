"""Utilisation: how much of the hardware's peak a training run uses, under three conventions.

mfu                  useful work only: causal attention, routed experts as measured (zero-computation experts cost 0)
mfu_full_attention   attention over the whole square, as PaLM (arXiv 2204.02311) and the older A100 rows count it
hfu                  what the hardware does; recomputed activations count again (there is no recomputation yet)
"""

from __future__ import annotations

from dataclasses import dataclass

from longcat.benchmark.flops import training_flops_per_token
from longcat.config import ModelConfig
from longcat.errors import DataError


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


def utilisation(
    model: ModelConfig,
    *,
    tokens_per_second: float,
    devices: int,
    sequence_length: int,
    ffn_experts: float | None,
    peak_flops: float | None,
) -> Utilisation:
    """Utilisation of a run.

    Args:
        model: what was trained.
        tokens_per_second: of all devices together.
        devices: how many.
        sequence_length: tokens that attention sees.
        ffn_experts: mean routed experts of a token, as measured.
        peak_flops: of all devices together, FLOP/s.

    Raises:
        DataError: the result is above 100 %, so an input is wrong.
    """
    causal = training_flops_per_token(model, sequence_length, ffn_experts)
    full = training_flops_per_token(model, sequence_length, ffn_experts, attention="full")
    useful, square = (tokens_per_second * sum(flops.values()) for flops in (causal, full))
    if peak_flops is not None and useful > peak_flops:
        raise DataError(
            f"an MFU of {useful / peak_flops:.0%} is impossible: {tokens_per_second:g} tokens/s on {devices} devices is "
            f"{useful / 1e12:.3g} TFLOP/s of {peak_flops / 1e12:.3g}; check the time, the number of devices and the peak"
        )
    return Utilisation(
        tokens_per_second=tokens_per_second,
        tflops_per_device=useful / devices / 1e12,
        flops_per_token=causal,
        mfu=None if peak_flops is None else useful / peak_flops,
        mfu_full_attention=None if peak_flops is None else square / peak_flops,
        hfu=None if peak_flops is None else useful / peak_flops,
    )
