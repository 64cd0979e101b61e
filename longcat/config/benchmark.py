"""Configuration of the MFU benchmark."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from longcat.config.section import Formerly, Section


class SweepConfig(Section):
    """Sweep over training settings: every combination is timed; an empty list keeps the run's own value."""

    micro_batch_sequences: list[int] = Field(default_factory=list)
    """Sequences per process and forward pass; see `training.micro_batch_sequences`."""
    sequence_length_tokens: list[int] = Field(default_factory=list)
    """Tokens per sequence; the tokens of a batch are split into such sequences, without padding."""
    activation_checkpointing: Annotated[list[Literal["none", "selective", "full"]], Formerly("recompute")] = Field(
        default_factory=list
    )
    """Values of `training.activation_checkpointing`."""
    processes: list[int] = Field(default_factory=list)
    """Numbers of training processes, for the scaling curve."""


class BenchmarkConfig(Section):
    """Measurement of training throughput with the trained model, and its comparison with published runs."""

    warmup_steps: int = Field(default=3, ge=0)
    """Untimed steps before the first window."""
    windows: int = Field(default=3, ge=1)
    """Timed windows; the median and the spread are reported."""
    window_steps: int = Field(default=4, ge=1)
    """Steps per window."""
    profiled_steps: int = Field(default=2, ge=0)
    """Steps under the profiler, after the timed ones; 0 omits the breakdown."""
    kernel_seconds: float = Field(default=0.3, ge=0)
    """Seconds for each operator of the roofline; 0 omits the roofline."""
    collective_bytes: list[int] = Field(default_factory=lambda: [2**14, 2**18, 2**22, 2**26])
    """Buffer sizes in bytes at which collectives are timed; an empty list omits them."""
    sweep: SweepConfig = SweepConfig()
    """Further training settings to time."""
    reference_rows: int = Field(default=6, ge=3)
    """Maximum number of published rows to compare with; a verdict needs three."""
