"""What a reader of logs is told of a run, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


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
class Recorded:
    """What a tracked run has recorded."""

    metrics: Mapping[str, Sequence[float]]
    """Values by name, in the order of steps."""
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LogContext:
    """Facts about a run that its log may not contain."""

    devices: int
    sequence_length: int
    """Tokens per sequence."""
    batch_tokens: int | None = None
    """Tokens of one step over all devices."""
    total_parameters: float | None = None
    """All parameters of the model."""
    non_embedding_parameters: float | None = None
    """All parameters but the embedding, by which a Trainer's total_flos is turned back into tokens: it counts idle experts too."""
    trainable_parameters: float | None = None
    """Parameters that are trained, if the user says so."""


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
    """Where the tokens were taken from, for people."""
    assumptions: tuple[str, ...] = ()
    """What was assumed that the log does not say."""
    doubts: tuple[str, ...] = ()
    """Reasons why these tokens allow no verdict."""
    told: Told | None = None
    """Utilisation by the log itself, if it gives one."""
    fine_tuning: bool = False
    """Whether the log shows that a trained model was tuned further."""
    says_what_is_trained: bool = True
    """False where the tool mostly tunes models, and the log does not show whether it did."""
    mean_length: float | None = None
    """Tokens of a mean sequence, where the log counts fewer than it was told a sequence has."""
    trainable_parameters: float | None = None
    """Parameters that were trained, if the log says so."""
