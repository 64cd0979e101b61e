"""The task suite: lm-evaluation-harness on the tasks of `evaluation.tasks`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from longcat.artifact import write_json
from longcat.config import PipelineConfig
from longcat.disk import write_text
from longcat.evaluation.harness import Metric, TaskResult, check_tasks, run_tasks, task_scores
from longcat.evaluation.samples import sample_file
from longcat.evaluation.suites import Checkpoint, Scores, Suite
from longcat.printable import markdown_text
from longcat.progress import Progress

RESULTS = "results.json"
"""Results in the form of lm-evaluation-harness, for its own tools."""
SAMPLES = "samples"
"""Folder of documents with the model's answers, TASK.jsonl each; see `longcat.evaluation.samples`."""


def _run(checkpoint: Checkpoint) -> Scores:
    config = checkpoint.config
    if not config.evaluation.tasks:
        return Scores({}, "")
    outcome = run_tasks(
        checkpoint.opened,
        config.evaluation,
        config.seed,
        lambda task, done: checkpoint.report(Progress("evaluate", done, 1, f"task {task}")),
    )
    write_json(checkpoint.directory / RESULTS, outcome.report)
    folder = checkpoint.directory / SAMPLES
    folder.mkdir(exist_ok=True)
    for name, samples in outcome.samples.items():
        lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
        write_text(folder / sample_file(name), "".join(lines))
    failed = len(outcome.failures)
    return Scores(
        figures={result.name: _figures(result) for result in outcome.results},
        markdown=_markdown(outcome.results, outcome.failures, checkpoint.opened.window),
        headline=f"{failed} task{'s' if failed > 1 else ''} failed" if failed else "",
        failures=outcome.failures,
        versions={result.name: result.version for result in outcome.results},
    )


def _figures(result: TaskResult) -> dict[str, float]:
    figures: dict[str, float | None] = {}
    for metric in result.metrics:
        figures[metric.name] = metric.value
        figures[f"{metric.name}_stderr"] = metric.stderr
        figures[f"{metric.name}_chance"] = metric.chance
    figures |= {"documents": result.documents, "truncated": result.truncated, "few_shot": result.few_shot}
    return {name: float(value) for name, value in figures.items() if value is not None and math.isfinite(value)}


def _markdown(results: Sequence[TaskResult], failures: dict[str, str], window: int) -> str:
    lines = [
        "## Tasks",
        "",
        "| task | metric | score | ± stderr | chance | documents | few-shot | version | truncated |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    lines += [_row(result, metric) for result in results for metric in result.metrics]
    truncated = sum(result.truncated for result in results)
    if truncated:
        lines += ["", f"Truncated: prompts that lost their beginning, because the model reads {window:,} tokens."]
    if failures:
        lines += ["", "### Tasks that failed", ""]
        lines += [f"* {markdown_text(name)}: {markdown_text(reason)}" for name, reason in failures.items()]
    return "\n".join(lines) + "\n"


def _row(result: TaskResult, metric: Metric) -> str:
    stderr = "n/a" if metric.stderr is None else f"{metric.stderr:.3f}"
    chance = "n/a" if metric.chance is None else f"{metric.chance:.3f}"
    shots = "mixed" if result.few_shot is None else f"{result.few_shot}"
    name, measure, edition = (markdown_text(text) for text in (result.name, metric.name, result.version))
    return (
        f"| {name} | {measure} | {metric.value:.3f} | {stderr} | {chance} | {result.documents} | {shots} | {edition} "
        f"| {result.truncated} |"
    )


def _identity(config: PipelineConfig) -> dict[str, Any]:
    return check_tasks(config)


SUITE = Suite(run=_run, identity=_identity, scores=task_scores)
