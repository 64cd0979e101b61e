"""Suites: the kinds of evaluation that a checkpoint goes through. A new one is one object in a file of its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from longcat.config import PipelineConfig
from longcat.corpus.shards import TokenCorpus
from longcat.errors import ConfigError
from longcat.model.transformer import LongcatModel
from longcat.progress import Reporter

BUILT_IN = {
    "held_out": "longcat.evaluation.held_out:SUITE",
    "tasks": "longcat.evaluation.tasks:SUITE",
}
"""Suites by the names that `evaluation.suites` takes, in the form it takes those of others."""


@dataclass(frozen=True)
class Checkpoint:
    """What a suite scores: a model, its tokenizer, and the corpus and the settings it was trained with."""

    config: PipelineConfig
    corpus: TokenCorpus
    model: LongcatModel
    tokenizer: Tokenizer
    report: Reporter


@dataclass(frozen=True)
class Scores:
    """The outcome of a suite."""

    figures: dict[str, dict[str, float]]
    """Metrics by subject, for example a task; what MLflow shows as `SUBJECT/METRIC`."""
    markdown: str
    """A section of the report, with its heading."""
    headline: str = ""
    """A few words for the table of stages; empty for none."""


@dataclass(frozen=True)
class Suite:
    """A kind of evaluation."""

    run: Callable[[Checkpoint], Scores]
    """Scores a checkpoint."""
    identity: Callable[[PipelineConfig], Mapping[str, Any]] = field(default=lambda config: {})
    """What the scores depend on beside the section `evaluation`, such as the hashes of files; JSON values.
    Raises `ConfigError` or `DataError` where a setting cannot be used, so it serves as the early check."""


def find_suite(name: str) -> Suite:
    """Return a built-in suite, or the one that `package.module:NAME` names.

    Raises:
        ConfigError: there is none.
    """
    module, separator, attribute = BUILT_IN.get(name, name).partition(":")
    if not separator:
        raise ConfigError(
            f"evaluation.suites: unknown suite {name!r}; there are: {', '.join(BUILT_IN)}, or package.module:NAME of your own"
        )
    try:
        suite = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"evaluation.suites: {name} cannot be loaded: {error}") from None
    if not isinstance(suite, Suite):
        raise ConfigError(
            f"evaluation.suites: {name} is a {type(suite).__name__}, not a longcat.evaluation.suites.Suite"
        )
    return suite


def source_of(name: str) -> Path | None:
    """Return the file of a suite of the user's own, whose hash is part of the identity; None for a built-in one."""
    if name in BUILT_IN:
        return None
    path = importlib.import_module(name.partition(":")[0]).__file__
    return None if path is None else Path(path)
