"""The evaluation stage: suites score a checkpoint, and their scores become a report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from longcat.accelerator import choose
from longcat.artifact import Artifact, Facts, Recipe, Workspace, sha256_file, write_json
from longcat.config import PipelineConfig, identity
from longcat.corpus.shards import TokenCorpus
from longcat.disk import write_text
from longcat.errors import ArtifactError, EvaluationError
from longcat.evaluation.decisions import last_decision
from longcat.evaluation.page import PAGE, write
from longcat.evaluation.suites import BUILT_IN, Checkpoint, Scores, find_suite, own_code
from longcat.inference.opening import settle_precision
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import tokenizer_of
from longcat.progress import Progress, Reporter, no_progress
from longcat.provenance import code_of
from longcat.unpacking import read_json

STAGE_VERSION = 9
_KEPT = "suites"
"""Folder of the scores of each suite, for an interrupted evaluation to go on from."""


class EvaluationFacts(Facts):
    """Scores of a checkpoint."""

    SETTINGS: ClassVar[frozenset[str]] = frozenset(
        {"few_shot", "documents", "sequences", "held_out_documents", "bytes", "baseline_tokens"}
    )

    scores: dict[str, dict[str, float]]
    """Metrics by subject: `held_out`, and each task by its name."""
    headlines: list[str]
    """Headline of each suite that has one, in the order of the suites."""
    failures: dict[str, str] = Field(default_factory=dict)
    """Why a task has no scores, by its name."""

    @property
    def headline(self) -> str:
        """Return the headlines of the suites, joined by commas."""
        return ", ".join(self.headlines) or f"{len(self.scores)} scores"

    @property
    def figures(self) -> dict[str, float | None]:
        """Return every score under the name `SUBJECT/METRIC`."""
        return {f"{name}/{metric}": value for name, values in self.scores.items() for metric, value in values.items()}

    def remarks(self, artifact: Path) -> list[str]:
        """Return where the report is, and what the gates said last of these scores."""
        found = last_decision(artifact.parents[1], artifact.name)
        return [*([] if found is None else [found.reason]), f"Evaluation report: {artifact / PAGE}"]


def suite_identities(config: PipelineConfig) -> dict[str, Any]:
    """Return what each suite's scores depend on, by suite; refuses unknown suites and unusable settings.

    Raises:
        ConfigError: a suite or a task is unknown.
        DataError: a task's file is broken.
    """
    identities = {}
    for name in config.evaluation.suites:
        own = dict(find_suite(name).identity(config))
        code = own_code(name)
        identities[name] = own if code is None else own | {"source": code}
    return identities


def evaluate(
    config: PipelineConfig,
    tokens: Artifact[Any],
    checkpoint: Artifact[CheckpointFacts],
    *,
    workspace: Workspace,
    report: Reporter = no_progress,
) -> Artifact[EvaluationFacts]:
    """Score a checkpoint by the suites of `evaluation.suites`.

    Returns:
        An `evaluation` artifact: `result.json`, `report.md`, `report.html`, and what suites add; see `refuse_failures`.

    Raises:
        ArtifactError: the checkpoint was trained with another tokenizer.
        ConfigError: a suite or a task is unknown.
    """
    corpus = TokenCorpus.open(tokens.path)
    digest = sha256_file(tokenizer_of(checkpoint.path))
    if digest != corpus.tokenizer_sha256:
        raise ArtifactError(
            f"{checkpoint.path} was trained with tokenizer {digest[:12]}, {tokens.path} has {corpus.tokenizer_sha256[:12]}"
        )
    accelerator = choose(config.accelerator)
    precision = settle_precision(config.evaluation.precision, accelerator)
    recipe = Recipe(
        kind="evaluation",
        facts=EvaluationFacts,
        version=STAGE_VERSION,
        identity={
            "evaluation": identity(config.evaluation),
            "device": [accelerator.kind, precision],
            "suites": suite_identities(config),
        },
        parents=(tokens, checkpoint),
        sources=code_of(__name__, *(BUILT_IN[n].partition(":")[0] for n in config.evaluation.suites if n in BUILT_IN)),
    )

    def build(directory: Path) -> EvaluationFacts:
        from longcat.inference.opening import open_checkpoint

        suites = {name: find_suite(name) for name in config.evaluation.suites}
        opened = None
        outcomes = []
        for number, suite in enumerate(suites.values()):

            def part(progress: Progress, before: int = number) -> None:
                report(Progress("evaluate", before + progress.fraction, len(suites), progress.message))

            kept = directory / _KEPT / f"{number}.json"
            if not kept.is_file():
                opened = opened or open_checkpoint(checkpoint.path, None, accelerator, precision)
                scores = suite.run(Checkpoint(config, corpus, opened, directory, part))
                kept.parent.mkdir(exist_ok=True)
                write_json(kept, asdict(scores))
            outcomes.append(Scores(**read_json(kept)))
        write_json(directory / "result.json", {name: asdict(one) for name, one in zip(suites, outcomes, strict=True)})
        of = f"Checkpoint {checkpoint.digest[:12]}: {checkpoint.facts.headline}"
        sections = [one.markdown for one in outcomes if one.markdown]
        write_text(directory / "report.md", "\n".join(["# Checkpoint evaluation\n", f"{of}\n", *sections]))
        all_scores = {subject: figures for one in outcomes for subject, figures in one.figures.items()}
        headlines = [one.headline for one in outcomes if one.headline]
        failures = {subject: reason for one in outcomes for subject, reason in one.failures.items()}
        versions = {subject: version for one in outcomes for subject, version in one.versions.items()}
        write(directory, all_scores, "; ".join([of, *headlines]), versions, failures)
        return EvaluationFacts(
            scores=all_scores,
            headlines=headlines,
            failures=failures,
        )

    return workspace.materialize(recipe, build, resumable=True, same_code=True, scratch=(_KEPT,))


def refuse_failures(evaluation: Artifact[EvaluationFacts]) -> None:
    """Fail for a task without scores, after those of the others have been recorded.

    Raises:
        EvaluationError: a task failed; says why, and where the others' scores are.
    """
    failures = evaluation.facts.failures
    if failures:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise EvaluationError(f"tasks without scores: {reasons}; the others are in {evaluation.path / 'report.md'}")
