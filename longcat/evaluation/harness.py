"""Tasks of lm-evaluation-harness, run on a checkpoint one after the other; one that fails leaves the others' results alone."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longcat.config import PipelineConfig
from longcat.config.evaluation import EvaluationConfig
from longcat.errors import Cancelled, ConfigError, LongcatError
from longcat.evaluation.catalog import Catalog, check_settings, find_tasks, told
from longcat.evaluation.documents import check_documents, check_examples
from longcat.evaluation.generation import settle_generation
from longcat.evaluation.loading import load_tasks
from longcat.evaluation.samples import chance_of, plain, samples_of
from longcat.evaluation.score_names import score_names
from longcat.inference.opening import OpenCheckpoint
from longcat.inference.runner import Runner

RESAMPLES = 1000
"""Of the bootstrap that gives standard errors where there is no formula."""
OnTask = Callable[[str, float], None]
"""Hears the name of the task that is run, and the finished part of all tasks."""


@dataclass(frozen=True)
class Metric:
    """A score of a task."""

    name: str
    """As the harness calls it; with the filter of the answers after a dot, where there is one: `exact_match.strict`."""
    value: float
    stderr: float | None
    """Standard error; None where there is none."""
    chance: float | None
    """What guessing gets; None where it is not known."""


@dataclass(frozen=True)
class TaskResult:
    """Scores of a task or a group, and what they stand on."""

    name: str
    metrics: list[Metric]
    documents: int
    few_shot: int | None
    version: str
    truncated: int
    """Documents whose prompt was cut at its beginning, because the model does not read so much."""


@dataclass
class Outcome:
    """What came out of all tasks."""

    results: list[TaskResult] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Reason by task."""
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Documents with their answers by task, see `longcat.evaluation.samples`."""
    report: dict[str, Any] = field(default_factory=dict)
    """What the harness writes as results.json."""


@dataclass(frozen=True)
class _Checked:
    identity: dict[str, Any]
    scores: list[str]


_checked: dict[str, _Checked] = {}
"""Tasks that were found good in this process, by all that they depend on."""


def check_tasks(config: PipelineConfig) -> dict[str, Any]:
    """Refuse tasks that could only fail, and return what their scores depend on besides settings.

    All data is loaded and looked at, once in a process.

    Raises:
        ConfigError: a task is unknown, or settings do not fit it.
        DataError: a file of a task is missing or broken, or a document cannot be asked.
    """
    return _check(config).identity


def task_scores(config: PipelineConfig) -> list[str]:
    """Return the scores that the tasks will give, see `longcat.evaluation.score_names`; refuses what `check_tasks` does."""
    return _check(config).scores


def _check(config: PipelineConfig) -> _Checked:
    evaluation = config.evaluation
    if not evaluation.tasks:
        return _Checked({}, [])
    catalog = find_tasks(evaluation.tasks, evaluation.task_paths)
    found = catalog.identity
    key = json.dumps([found, evaluation.model_dump(), config.model.max_position_embeddings], sort_keys=True)
    if key not in _checked:
        scores = []
        for name in evaluation.tasks:
            loaded = load_tasks(catalog, name)
            for task in loaded.tasks.values():
                _check_task(config, task, catalog)
            scores += score_names(loaded.tasks, loaded.groups)
        _checked[key] = _Checked(found, scores)
    return _checked[key]


def _check_task(config: PipelineConfig, task: Any, catalog: Catalog) -> None:
    check_settings(config.evaluation, task)
    _apply(config.evaluation, task, config.seed)
    check_examples(task)
    if task.OUTPUT_TYPE == "generate_until":
        try:
            settle_generation(task.config.generation_kwargs, "", config.model.max_position_embeddings, 0)
        except ConfigError as error:
            raise ConfigError(f"evaluation.tasks: {task.task_name}: {error}") from None
    check_documents(task, catalog.source(task.task_name))


def run_tasks(checkpoint: OpenCheckpoint, config: EvaluationConfig, seed: int, on_task: OnTask) -> Outcome:
    """Score a checkpoint by the tasks of a configuration.

    Raises:
        ConfigError: a task is unknown, or a conversation is asked for and the checkpoint has no chat template.
        DataError: a file of a task is missing or broken.
    """
    if config.chat_template and checkpoint.chat_template is None:
        raise ConfigError(f"evaluation.chat_template=true, but {checkpoint.path} has no chat template")
    catalog = find_tasks(config.tasks, config.task_paths)
    outcome, loaded = Outcome(), {}
    for name in config.tasks:
        try:
            loaded[name] = load_tasks(catalog, name)
        except LongcatError as error:
            outcome.failures[name] = str(error)
    tasks = {name: task for some in loaded.values() for name, task in some.tasks.items()}
    runner = Runner(checkpoint, batch_sequences=config.batch_sequences, processes=config.processes)
    parts: list[dict[str, Any]] = []
    for number, (name, task) in enumerate(tasks.items()):

        def on_done(done: int, total: int, before: int = number, name: str = name) -> None:
            on_task(name, (before + done / total) / len(tasks))

        on_task(name, number / len(tasks))
        try:
            part, result, samples = _run(runner, task, config, seed, on_done)
        except (Cancelled, MemoryError, torch.OutOfMemoryError):
            raise
        except LongcatError as error:
            outcome.failures[name] = str(error)
        except Exception as error:  # what a task's own functions, filters and metrics raise
            outcome.failures[name] = told(error)
        else:
            parts.append(part)
            outcome.results.append(result)
            outcome.samples[name] = samples
    outcome.report = _merge(parts, checkpoint, config, seed)
    groups = {name: group for some in loaded.values() for name, group in some.groups.items()}
    for name, group in groups.items():
        _add_group(outcome, name, group)
    _make_portable(outcome.report, catalog)
    outcome.report = plain(outcome.report)
    return outcome


def _run(
    runner: Runner, task: Any, config: EvaluationConfig, seed: int, on_done: Callable[[int, int], None]
) -> tuple[dict[str, Any], TaskResult, list[dict[str, Any]]]:
    """Run one task; returns the harness' results, ours, and the samples."""
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # the bootstrap would fork this process
    from lm_eval.evaluator import evaluate

    from longcat.evaluation.adapter import Adapter

    name = task.task_name
    check_settings(config, task)
    _apply(config, task, seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    model = Adapter(runner, seed, on_done, chat=config.chat_template)
    found = evaluate(
        model,
        {"tasks": {name: task}},
        limit=config.task_limit,
        bootstrap_iters=RESAMPLES,
        log_samples=True,
        system_instruction=config.system_prompt,
        apply_chat_template=config.chat_template,
        fewshot_as_multiturn=config.chat_template,
        confirm_run_unsafe_code=config.run_generated_code,
    )
    assert found is not None
    logged = found.pop("samples")[name]
    chances = chance_of(task, logged)
    figures = found["results"][name]
    dropped = {document: count for (_, document), count in model.dropped.items()}
    result = TaskResult(
        name=name,
        metrics=_metrics(figures, chances),
        documents=found["n-samples"][name]["effective"],
        few_shot=found["n-shot"][name],
        version=_version(found["versions"].get(name)),
        truncated=len(dropped),
    )
    return dict(found), result, samples_of(task, logged, dropped)


def _apply(config: EvaluationConfig, task: Any, seed: int) -> None:
    """Lay the settings over what a task says itself."""
    if task.OUTPUT_TYPE == "generate_until":
        generation = {name: value for name, value in config.generation.model_dump().items() if value is not None}
        if generation:
            task.set_config(key="generation_kwargs", value=generation, update=True)
    own = task.get_config("num_fewshot")
    task.set_config(key="num_fewshot", value=(own or 0) if config.few_shot is None or own == 0 else config.few_shot)
    task.set_fewshot_seed(seed=seed)


def _metrics(figures: Mapping[str, Any], chances: Mapping[str, float]) -> list[Metric]:
    metrics = []
    for key, value in figures.items():
        name, comma, kind = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = figures.get(f"{name}_stderr,{kind}")
        metrics.append(
            Metric(
                name if kind == "none" else f"{name}.{kind}",
                float(value),
                float(stderr) if isinstance(stderr, int | float) else None,
                chances.get(name),
            )
        )
    return metrics


def _version(value: Any) -> str:
    return "n/a" if value in (None, "Yaml", "N/A") else str(value)


def _add_group(outcome: Outcome, name: str, group: Any) -> None:
    """Add the scores that a group makes of those of its tasks."""
    members = [
        result for result in outcome.results if result.name in {task.task_name for task in group.get_all_tasks()}
    ]
    report = outcome.report
    report["group_subtasks"][name] = group.child_names
    if not members or not group.has_aggregation:
        return
    figures = group.aggregate({member.name: report["results"][member.name] for member in members})
    for table in ("results", "groups"):
        report.setdefault(table, {})[name] = figures
    report["versions"][name] = group.version
    documents = sum(member.documents for member in members)
    chances = {}
    for metric in {metric.name for member in members for metric in member.metrics}:
        of_metric = [
            (one.chance, member.documents) for member in members for one in member.metrics if one.name == metric
        ]
        known = [(chance, count) for chance, count in of_metric if chance is not None]
        if len(known) == len(of_metric):
            chances[metric] = sum(chance * count for chance, count in known) / sum(count for _, count in known)
    shots = {member.few_shot for member in members}
    outcome.results.append(
        TaskResult(
            name=name,
            metrics=_metrics(figures, chances),
            documents=documents,
            few_shot=shots.pop() if len(shots) == 1 else None,
            version=_version(group.version),
            truncated=sum(member.truncated for member in members),
        )
    )


def _merge(
    parts: list[dict[str, Any]], checkpoint: OpenCheckpoint, config: EvaluationConfig, seed: int
) -> dict[str, Any]:
    """Put the harness' results of single tasks together, as it would have written them itself."""
    tables = ("results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples")
    merged: dict[str, Any] = {table: {} for table in tables}
    for part in parts:
        for table in tables:
            merged[table] |= part.get(table, {})
    generation = {name: value for name, value in config.generation.model_dump().items() if value is not None}
    return merged | {
        "config": {
            "model": "longcat",
            "model_args": None,
            "batch_size": str(config.batch_sequences),
            "limit": config.task_limit,
            "bootstrap_iters": RESAMPLES,
            "gen_kwargs": generation or None,
            "random_seed": seed,
            "numpy_seed": seed,
            "fewshot_seed": seed,
        },
        "lm_eval_version": version("lm_eval"),
        "model_source": "longcat",
        "eot_token_id": checkpoint.end_of_text,
        "max_length": checkpoint.window,
        "system_instruction": config.system_prompt,
        "chat_template": checkpoint.chat_template if config.chat_template else None,
        "fewshot_as_multiturn": config.chat_template,
    }


def _make_portable(report: dict[str, Any], catalog: Catalog) -> None:
    """Take the places of files on this machine out of the tasks' configurations."""
    for name, task in report["configs"].items():
        part = catalog.source(name)
        if isinstance(task.get("metadata"), dict) and "config_source" in task["metadata"]:
            task["metadata"] = task["metadata"] | {"config_source": part.files[0].name if part else "inline"}
        options = task.get("dataset_kwargs")
        if part is not None and "dataset_kwargs" in part.settled and isinstance(options, dict):
            task["dataset_kwargs"] = _names(options)
        if part is not None and "dataset_path" in part.settled:
            task["dataset_path"] = Path(task["dataset_path"]).name


def _names(value: Any) -> Any:
    """Replace files by their names."""
    if isinstance(value, dict):
        return {key: _names(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_names(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value
