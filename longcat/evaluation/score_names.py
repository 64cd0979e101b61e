"""Names of the scores that tasks give, as they are known before any checkpoint is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from glob import escape
from typing import Any

from longcat.evaluation.task_keys import metric_names

COUNTS = ("documents", "truncated", "few_shot")
"""Figures beside the metrics of every task."""


def score_names(tasks: Mapping[str, Any], groups: Mapping[str, Any]) -> list[str]:
    """Return the scores of tasks and groups as patterns of `fnmatch`, `SUBJECT/METRIC`; `*` where a task's code names them.

    Args:
        tasks: lm-evaluation-harness' tasks by name, with their data.
        groups: its groups by name.
    """
    metrics = {name: _metrics_of(task) for name, task in tasks.items()}
    names = [pattern for name, own in metrics.items() for pattern in _patterns(name, own)]
    for name, group in groups.items():
        if group.has_aggregation:
            wanted = {one.metric for one in group.aggregate_metric_list}
            members = [metrics.get(task.task_name, {"*": ["*"]}) for task in group.get_all_tasks()]
            shared = {
                metric: shown for own in members for metric, shown in own.items() if metric in wanted or metric == "*"
            }
            names += _patterns(name, shared)
    return names


def _patterns(subject: str, metrics: Mapping[str, Iterable[str]]) -> Iterator[str]:
    for shown in (*(one for names in metrics.values() for one in names), *COUNTS):
        yield f"{escape(subject)}/{shown}"
        if shown not in COUNTS:
            yield from (f"{escape(subject)}/{shown}{ending}" for ending in ("_stderr", "_chance"))


def _metrics_of(task: Any) -> dict[str, list[str]]:
    """Return what a task's metrics are shown as, by metric: one name for each filter of the answers."""
    from lm_eval.api.registry import METRIC_REGISTRY
    from lm_eval.api.task import ConfigurableTask

    config = task.config
    if type(task) is not ConfigurableTask or config.process_results is not None:
        return {"*": ["*"]}
    metrics = metric_names(vars(config))
    if any(metric not in METRIC_REGISTRY for metric in metrics):  # one may give several figures
        return {"*": ["*"]}
    filters = [one["name"] for one in config.filter_list or [{"name": "none"}]]
    return {
        metric: [metric if name == "none" else f"{escape(metric)}.{escape(str(name))}" for name in filters]
        for metric in metrics
    }
