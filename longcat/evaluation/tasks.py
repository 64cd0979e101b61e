"""The task suite: lm-evaluation-harness on the tasks of `evaluation.tasks`."""

from __future__ import annotations

from collections.abc import Mapping

from longcat.config import PipelineConfig
from longcat.evaluation.harness import identity_of, score
from longcat.evaluation.suites import Checkpoint, Scores, Suite
from longcat.inference.runner import Runner
from longcat.printable import markdown_text
from longcat.progress import Progress

_NO_SCORES = ("version", "documents", "sample_len")


def _run(checkpoint: Checkpoint) -> Scores:
    evaluation = checkpoint.config.evaluation
    if not evaluation.tasks:
        return Scores({}, "")
    checkpoint.report(Progress("evaluate", 0, 1, f"tasks: {', '.join(evaluation.tasks)}"))
    runner = Runner(checkpoint.opened, batch_sequences=evaluation.batch_sequences, processes=evaluation.processes)
    scores = score(runner, evaluation.tasks, limit=evaluation.task_limit, seed=checkpoint.config.seed)
    return Scores(scores, _markdown(scores))


def _markdown(scores: Mapping[str, Mapping[str, float]]) -> str:
    lines = ["## Tasks", "", "| task | metric | score | ± stderr | documents |", "| --- | --- | ---: | ---: | ---: |"]
    for name, figures in scores.items():
        for metric, value in figures.items():
            if metric.endswith("_stderr") or metric in _NO_SCORES:
                continue
            error = figures.get(f"{metric}_stderr")
            error_text = "" if error is None else f"{error:.3f}"
            lines.append(
                f"| {markdown_text(name)} | {markdown_text(metric)} | {value:.3f} | {error_text} | {figures['documents']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def _identity(config: PipelineConfig) -> dict[str, list[str]]:
    return identity_of(config.evaluation.tasks)


SUITE = Suite(run=_run, identity=_identity)
