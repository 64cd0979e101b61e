"""Evaluation suites, and how they are found by name. A new suite is one `Suite` object in its own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from longcat.config import PipelineConfig
from longcat.corpus.shards import TokenCorpus
from longcat.errors import ConfigError
from longcat.extensions import EVALUATIONS, Extension, find, registered
from longcat.inference.opening import OpenCheckpoint
from longcat.model.transformer import LongcatModel
from longcat.progress import Reporter

BUILT_IN = {
    "held_out": "longcat.evaluation.held_out:SUITE",
    "intrinsic": "longcat.evaluation.intrinsic:SUITE",
    "tasks": "longcat.evaluation.tasks:SUITE",
}
"""Built-in suites, as `module:NAME` by the name that `evaluation.suites` takes."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint to score: the model, its tokenizer, and the corpus and settings it was trained with."""

    config: PipelineConfig
    corpus: TokenCorpus
    opened: OpenCheckpoint
    """The model on its accelerator, for `longcat.inference.runner`."""
    directory: Path
    """Folder of the evaluation, for files of a suite's own; a suite that is run again writes them again."""
    report: Reporter

    @property
    def model(self) -> LongcatModel:
        """Return the model, on its accelerator."""
        return self.opened.model

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the model's tokenizer."""
        return self.opened.tokenizer


@dataclass(frozen=True)
class Scores:
    """Scores that a suite gives a checkpoint, and how to report them."""

    figures: dict[str, dict[str, float]]
    """Metrics by subject, for example a task; MLflow shows them as `SUBJECT/METRIC`."""
    markdown: str
    """Section of the report, with its heading."""
    headline: str = ""
    """Short result for the table of stages; empty for none."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why a subject has no scores; the stage fails when it has written those of the others."""
    versions: dict[str, str] = field(default_factory=dict)
    """Version of a subject, of those that have one."""


@dataclass(frozen=True)
class Suite:
    """A kind of evaluation: how to run it and what its scores depend on."""

    run: Callable[[Checkpoint], Scores]
    """Function that scores a checkpoint."""
    identity: Callable[[PipelineConfig], Mapping[str, Any]] = field(default=lambda config: {})
    """Function that returns what the scores depend on besides the section `evaluation`, for example hashes of files, as
    JSON values. It raises `ConfigError` or `DataError` if a setting cannot be used, so it is also the early check."""
    scores: Callable[[PipelineConfig], Sequence[str] | None] = field(default=lambda config: None)
    """Function that returns the scores that a run of it gives, as patterns of `fnmatch` for `SUBJECT/METRIC`, so that a gate
    on another one is refused before anything runs; None if they are not known beforehand."""


def find_suite(name: str) -> Suite:
    """Return a suite by its built-in name, by a registered one or by `package.module:NAME`.

    Raises:
        ConfigError: the suite is unknown, cannot be imported or is not a `Suite`.
    """
    return _place(name).load("evaluation.suites=", Suite)


def own_code(name: str) -> dict[str, str] | None:
    """Return the identity of the code of a user's own suite; None for a built-in suite."""
    return None if name in BUILT_IN else _place(name).identity


def _place(name: str) -> Extension:
    if name in BUILT_IN:
        return Extension(name, BUILT_IN[name])
    found = find(EVALUATIONS, name, "evaluation.suites=")
    if found is None:
        known = ", ".join([*BUILT_IN, *registered(EVALUATIONS)])
        raise ConfigError(
            f"evaluation.suites: unknown suite {name!r}; there are: {known}, or package.module:NAME of your own"
        )
    return found
