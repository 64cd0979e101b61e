"""Configuration of the evaluation of a checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from longcat.config.section import RUNTIME, Section, each_once


class Gate(Section):
    """A condition on a score, which a checkpoint has to meet to become the champion; it has one of three bounds."""

    score: str
    """The score, as `SUBJECT/METRIC`: `held_out/bits_per_byte`, `python_completion/acc`."""
    at_least: float | None = None
    """Smallest score that passes."""
    at_most: float | None = None
    """Largest score that passes."""
    no_worse_than_champion: bool = False
    """Pass a score that is as good as the present champion's; without a champion every score passes."""
    margin: float = Field(default=0.0, ge=0)
    """How much worse than the champion's a score may be."""
    lower_is_better: bool | None = None
    """Whether a lower score is a better one; null goes by the metric's name (bits, perplexity, loss, error are)."""

    @model_validator(mode="after")
    def _one_bound(self) -> Gate:
        subject, slash, metric = self.score.rpartition("/")
        if not (subject and slash and metric):
            raise ValueError(f"score={self.score!r} is not SUBJECT/METRIC, as in held_out/bits_per_byte")
        bounds = [self.at_least is not None, self.at_most is not None, self.no_worse_than_champion]
        if sum(bounds) != 1:
            raise ValueError(
                f"{self.score}: a gate has one of at_least, at_most and no_worse_than_champion: true, this one has {sum(bounds)}"
            )
        if not self.no_worse_than_champion and (self.margin or self.lower_is_better is not None):
            raise ValueError(f"{self.score}: margin and lower_is_better belong to no_worse_than_champion: true")
        return self


class GenerationConfig(Section):
    """How tasks that generate are continued, over what each task says itself; null leaves it to the task."""

    max_gen_toks: int | None = Field(default=None, ge=1)
    """Most tokens of an answer."""
    until: list[str] | None = None
    """Strings that end an answer."""
    do_sample: bool | None = None
    """Draw tokens by `temperature`; false takes the likeliest ones."""
    temperature: float | None = Field(default=None, ge=0)
    """What logits are divided by."""
    top_k: int | None = Field(default=None, ge=1)
    """Draw from this many likeliest tokens only."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Draw from the likeliest tokens that together have this probability only."""


class EvaluationConfig(Section):
    """Evaluation of the checkpoint: suites, held-out text and tasks."""

    suites: list[str] = Field(default_factory=lambda: ["held_out", "tasks"], min_length=1)
    """Evaluation suites, run in this order: `held_out`, `intrinsic`, `tasks`, and suites of your own: registered ones, or
    `package.module:NAME` (docs/extending.md)."""
    held_out_sequences: int = Field(default=256, ge=1)
    """Maximum number of held-out sequences to score."""
    ngram_order: int = Field(default=5, ge=1, le=8)
    """Order of the n-gram baseline."""
    tasks: list[str] = Field(default_factory=lambda: ["python_completion"])
    """Tasks, groups and tags of lm-evaluation-harness, by name: those of data/evaluation/, of `task_paths`, and its own."""
    task_paths: Annotated[list[str], RUNTIME] = Field(default_factory=list)
    """Folders with tasks of your own (YAML files of lm-evaluation-harness); a `!function` in them is code that is run."""
    task_limit: int | None = Field(default=None, ge=1)
    """Maximum number of documents per task; null takes all."""
    few_shot: int | None = Field(default=None, ge=0)
    """Examples before each question, except in tasks that say 0 themselves; null leaves it to each task."""
    chat_template: bool = False
    """Ask as a user in a conversation, by the chat template that lies with the tokenizer."""
    system_prompt: str | None = None
    """Text before everything else: the system's message of a conversation, or just the first text."""
    generation: GenerationConfig = GenerationConfig()
    """How tasks that generate are continued."""
    run_generated_code: bool = False
    """Accept tasks that run what the model writes as a program (`unsafe_code`), with all rights of this process."""
    batch_sequences: int = Field(default=16, ge=1)
    """Sequences scored at once; part of the identity, because results can depend on it."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Type of the weights and of what is computed with them. `auto`: bf16 on an accelerator that has it, fp32 on a CPU."""
    processes: Annotated[int, RUNTIME] = Field(default=1, ge=1)
    """Processes of this machine that likelihoods of tasks are divided among, each with the whole model on a device of its own."""

    gates: Annotated[list[Gate], RUNTIME] = Field(default_factory=list)
    """Conditions on scores: a checkpoint that meets all becomes the champion, one that does not fails the run. None judges nothing."""

    _each_once = field_validator("suites", "tasks")(each_once)
