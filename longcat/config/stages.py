"""Configuration of the stages after training: the MFU benchmark and the evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from longcat.config.section import Formerly, Section


class SweepConfig(Section):
    """Settings of training whose every combination is timed; an empty list leaves the run's own."""

    micro_batch_sequences: list[int] = Field(default_factory=list)
    """Sequences of one process that go through the model at once."""
    sequence_length_tokens: list[int] = Field(default_factory=list)
    """The tokens of a batch are cut anew, without padding."""
    activation_checkpointing: Annotated[list[Literal["none", "full"]], Formerly("recompute")] = Field(
        default_factory=list
    )
    """See `training.activation_checkpointing`."""
    processes: list[int] = Field(default_factory=list)
    """Training processes, for the scaling curve."""


class BenchmarkConfig(Section):
    """Measurement of the trained model's throughput."""

    warmup_steps: int = Field(default=3, ge=0)
    """Steps before measuring."""
    windows: int = Field(default=3, ge=1)
    """Measured windows; the median is reported with the spread."""
    window_steps: int = Field(default=4, ge=1)
    """Steps in one window."""
    profiled_steps: int = Field(default=2, ge=0)
    """Steps under the profiler, after the timed ones; 0 leaves the breakdown out."""
    kernel_seconds: float = Field(default=0.3, ge=0)
    """Time for each operator of the roofline; 0 leaves it out."""
    collective_bytes: list[int] = Field(default_factory=lambda: [2**14, 2**18, 2**22, 2**26])
    """Sizes at which collectives are timed; none leaves them out."""
    sweep: SweepConfig = SweepConfig()
    """Further settings to time."""
    reference_rows: int = Field(default=6, ge=3)
    """Published rows that the result is set against; a verdict takes three."""


class EvaluationConfig(Section):
    """What the checkpoint is scored on."""

    suites: list[str] = Field(default_factory=lambda: ["held_out", "tasks"], min_length=1)
    """Kinds of evaluation, in this order: `held_out`, `tasks`, or `package.module:NAME` of a suite of your own."""
    held_out_sequences: int = Field(default=256, ge=1)
    """At most so many held-out sequences are scored."""
    ngram_order: int = Field(default=5, ge=1, le=8)
    """Order of the n-gram baseline."""
    tasks: list[str] = Field(default_factory=lambda: ["python_completion"])
    """lm-evaluation-harness tasks, by name; each is a YAML file with its JSONL in data/evaluation/."""
    task_limit: int | None = Field(default=None, ge=1)
    """At most so many documents of each task."""
    batch_sequences: int = Field(default=16, ge=1)
    """Sequences scored at once; fixed, because results can depend on it."""
