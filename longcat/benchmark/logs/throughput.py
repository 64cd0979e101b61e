"""What a reader of logs is told of a run, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Told:
    """Utilisation as a log itself gives it: the median over the readings; one of the two figures at least."""

    tflops_per_device: float | None = None
    mfu: float | None = None
    """As a fraction."""
    peak_tflops: float | None = None
    """Peak of one device that the tool divides by, where it always is the same; None for that of the device."""
    conventions: tuple[str, ...] = ()
    """Conventions (`longcat.costs.conventions`) that the tool may have counted in."""
    recomputation: bool = False
    """Whether the tool counts recomputation as work."""


@dataclass(frozen=True)
class LogContext:
    """Facts about a run that its log may not contain."""

    devices: int
    sequence_length: int
    """Tokens per sequence."""
    batch_tokens: int | None = None
    """Tokens of one step over all devices."""
    non_embedding_parameters: float | None = None
    """Activated parameters without the embedding, to tell tokens from a Trainer's FLOP."""


@dataclass(frozen=True)
class Throughput:
    """Throughput of a run, as its log reports it."""

    tokens_per_second: float
    """Median over the readings, summed over all devices."""
    spread: float
    """Largest minus smallest reading, as a fraction of the median."""
    readings: int
    """Number of readings, without those left out at the start."""
    kind: str
    """Tool that wrote the log."""
    tokens_from: str = ""
    """Where the number of tokens comes from, as a phrase: `the log's consumed tokens`, `--batch-tokens`, ..."""
    assumptions: tuple[str, ...] = ()
    """Assumptions about the run, one phrase each: `every sequence is full: 64 x 4,096 tokens a step`."""
    doubts: tuple[str, ...] = ()
    """Assumptions that the figures depend on too much for a verdict, one phrase each."""
    told: Told | None = None
    """Utilisation as the log itself gives it."""
    fine_tuning: bool = False
    """Whether the log shows that the run fine-tunes a model."""
    trainable_parameters: float | None = None
    """Weights with a gradient, where the log says that others are frozen."""
