"""Configuration of the evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from longcat.config.section import RUNTIME, Section


class EvaluationConfig(Section):
    """Evaluation of the checkpoint: suites, held-out text and tasks."""

    suites: list[str] = Field(default_factory=lambda: ["held_out", "tasks"], min_length=1)
    """Evaluation suites, run in this order: `held_out`, `tasks`, or `package.module:NAME` of a suite of your own."""
    held_out_sequences: int = Field(default=256, ge=1)
    """Maximum number of held-out sequences to score."""
    ngram_order: int = Field(default=5, ge=1, le=8)
    """Order of the n-gram baseline."""
    tasks: list[str] = Field(default_factory=lambda: ["python_completion"])
    """lm-evaluation-harness tasks, by name; each is a YAML file with its JSONL in data/evaluation/."""
    task_limit: int | None = Field(default=None, ge=1)
    """Maximum number of documents per task; null takes all."""
    batch_sequences: int = Field(default=16, ge=1)
    """Sequences scored at once; part of the identity, because results can depend on it."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Type of the weights and of what is computed with them. `auto`: bf16 on an accelerator that has it, fp32 on a CPU."""
    processes: Annotated[int, RUNTIME] = Field(default=1, ge=1)
    """Processes of this machine that likelihoods of tasks are divided among, each with the whole model on a device of its own."""

    @field_validator("suites")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if repeated := sorted({name for name in value if value.count(name) > 1}):
            raise ValueError(f"{', '.join(repeated)} more than once")
        return value
