"""Keys of an lm-evaluation-harness task that the harness takes as they are, and that would fail in the run or mean nothing."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from longcat.errors import DataError

_FUNCTIONS = ("custom_dataset", "process_docs", "process_results")
"""Keys that have a function as their value, and nothing else."""


def check_keys(config: Mapping[str, Any], where: str, *, whole: bool = True) -> None:
    """Refuse a task with a key that makes no sense, before any data is loaded.

    Args:
        config: the task, with what it includes, as the harness' index has it: a `!function` is the path of its file with its name.
        where: its file, for the message.
        whole: whether these are all keys of the task; a group overrides some.

    Raises:
        DataError: names the key, what was found, and what would be right.
    """
    if "class" in config:
        return
    problem = key_problem(config, whole=whole, registers=_has_functions(config))
    if problem is not None:
        raise DataError(f"{where}: {problem}")


def key_problem(config: Mapping[str, Any], *, whole: bool, registers: bool) -> str | None:
    """Say which key of a task makes no sense; None if all do.

    Args:
        config: the task, with what it includes; functions as in `check_keys`, or as they are.
        whole: whether these are all keys of the task.
        registers: whether code of the task that has not been imported may register metrics, aggregations and filters.
    """
    checks = [_unknown(config), _numbers(config), _functions(config)]
    checks += [_missing(config)] if whole else []
    checks += [_metrics(config, registers), _filters(config, registers), _chance(config)]
    return next(itertools.chain.from_iterable(checks), None)


def metric_names(config: Mapping[str, Any]) -> list[str]:
    """Return the metrics of a task, by what it says or by what is usual for its kind.

    Args:
        config: a task, with what it includes, or the `config` of a loaded one as a mapping.
    """
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    listed = config.get("metric_list")
    if listed is None:
        return list(DEFAULT_METRIC_REGISTRY.get(config.get("output_type") or "generate_until", ()))
    return [_name(one["metric"]) for one in listed]


def _unknown(config: Mapping[str, Any]) -> Iterator[str]:
    from lm_eval.config.group import GroupConfig
    from lm_eval.config.task import TaskConfig

    own = [field.name for field in dataclasses.fields(TaskConfig)]
    known = {*own, *(field.name for field in dataclasses.fields(GroupConfig)), "include", "task_list"}
    for key in config:
        if key not in known:
            near = difflib.get_close_matches(str(key), own, n=3)
            yield f"unknown key {key!r}" + (f"; near are: {', '.join(near)}" if near else "")


def _numbers(config: Mapping[str, Any]) -> Iterator[str]:
    from lm_eval.api.task import ALL_OUTPUT_TYPES

    for key, least in (("num_fewshot", 0), ("repeats", 1)):
        value = config.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            yield f"{key}: {value!r} is no whole number of {least} or more"
    kind = config.get("output_type")
    if kind is not None and kind not in ALL_OUTPUT_TYPES:
        yield f"output_type: {kind!r} is none of {', '.join(ALL_OUTPUT_TYPES)}"
    options = config.get("generation_kwargs")
    if options is not None and not isinstance(options, Mapping):
        yield f"generation_kwargs: {options!r} is no mapping of arguments"


def _functions(config: Mapping[str, Any]) -> Iterator[str]:
    for key in _FUNCTIONS:
        value = config.get(key)
        if value is not None and not _is_function(value):
            yield f"{key}: {value!r} is no function; it is written as !function MODULE.NAME"


def _missing(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("use_prompt") is not None:
        return
    for key in ("doc_to_text", "doc_to_target"):
        if config.get(key) is None:
            yield f"{key} is missing"
    if config.get("output_type") == "multiple_choice" and config.get("doc_to_choice") is None:
        yield "doc_to_choice is missing, which output_type: multiple_choice needs"
    if config.get("test_split") is None and config.get("validation_split") is None:
        yield "test_split is missing, the split whose documents are asked"


def _metrics(config: Mapping[str, Any], registers: bool) -> Iterator[str]:
    import lm_eval.api.metrics  # noqa: F401  (fills the registries)
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_AGGREGATION_REGISTRY, METRIC_REGISTRY

    listed = config.get("metric_list")
    if listed is None:
        return
    if not isinstance(listed, list) or not listed:
        yield f"metric_list: {listed!r} is no list of metrics"
        return
    for one in listed:
        if not isinstance(one, Mapping) or not one.get("metric"):
            yield f"metric_list: {one!r} does not name a metric; an entry is {{metric: acc, aggregation: mean}}"
            return
        metric, aggregation = one["metric"], one.get("aggregation")
        if "aggregation" not in one and registers:
            continue
        free = registers or _is_function(metric) or any((config.get("process_results"), one.get("hf_evaluate")))
        if not free and metric not in METRIC_REGISTRY:
            near = _near(metric, METRIC_REGISTRY)
            yield f"metric_list: unknown metric {metric!r}; {near}; hf_evaluate: true takes one of the library evaluate"
        if "aggregation" not in one:
            if metric not in METRIC_AGGREGATION_REGISTRY:
                yield f"metric_list: {_name(metric)}: aggregation is missing, which is mean for most metrics"
        elif not registers and not _is_function(aggregation) and aggregation not in AGGREGATION_REGISTRY:
            yield f"metric_list: {_name(metric)}: unknown aggregation {aggregation!r}; {_near(aggregation, AGGREGATION_REGISTRY)}"


def _filters(config: Mapping[str, Any], registers: bool) -> Iterator[str]:
    listed = config.get("filter_list")
    if listed is None:
        return
    if not isinstance(listed, list) or not listed:
        yield f"filter_list: {listed!r} is no list of filters"
        return
    names: set[str] = set()
    for one in listed:
        if not isinstance(one, Mapping) or "name" not in one or not isinstance(one.get("filter"), list):
            yield f"filter_list: {one!r} has no name and list of functions; an entry is {{name: NAME, filter: [{{function: take_first}}]}}"
            return
        if one["name"] in names:
            yield f"filter_list: there are two filters of the name {one['name']!r}"
        names.add(one["name"])
        for step in one["filter"]:
            problem = _filter_problem(step, registers)
            if problem is not None:
                yield f"filter_list: {one['name']}: {problem}"


def _filter_problem(step: Any, registers: bool) -> str | None:
    import lm_eval.filters  # noqa: F401  (fills the registry)
    from lm_eval.api.registry import filter_registry

    if not isinstance(step, Mapping) or not step.get("function"):
        return f"{step!r} does not name a function"
    function, options = step["function"], {key: value for key, value in step.items() if key != "function"}
    if _is_function(function) or (registers and function not in filter_registry):
        return None
    if function not in filter_registry:
        return f"unknown function {function!r}; {_near(function, filter_registry)}"
    try:
        filter_registry.get(function)(**options)
    except re.error as error:
        key = next((key for key, value in options.items() if value == error.pattern), function)
        return f"{key}: {error.pattern!r} is no regular expression ({error})"
    except Exception as error:  # what a filter raises for options that it does not take
        return f"{function}: {str(error) or type(error).__name__}"
    return None


def _chance(config: Mapping[str, Any]) -> Iterator[str]:
    metadata = config.get("metadata")
    stated = metadata.get("chance") if isinstance(metadata, Mapping) else None
    if stated is None:
        return
    if not isinstance(stated, Mapping):
        if not _is_number(stated) or not 0 <= stated <= 1:
            yield f"metadata.chance: {stated!r} is no number between 0 and 1, the share that guessing gets right"
        return
    known = metric_names(config)
    for metric, value in stated.items():
        if metric not in known and config.get("process_results") is None:
            yield f"metadata.chance: the task has no metric {metric!r}; there are: {', '.join(known)}"
        if not _is_number(value):
            yield f"metadata.chance: {metric}: {value!r} is no number"
        elif _is_share(str(metric)) and not 0 <= value <= 1:
            yield f"metadata.chance: {metric}: {value!r} is not between 0 and 1"


def _is_share(metric: str) -> bool:
    """Return whether a metric is a share of documents, by its name."""
    return metric.startswith(("acc", "exact_match", "right", "f1", "em"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_function(value: Any) -> bool:
    return callable(value) or (isinstance(value, str) and value.startswith("/"))


def _has_functions(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_functions(inner) for inner in value.values())
    return any(_has_functions(inner) for inner in value) if isinstance(value, list) else _is_function(value)


def _name(metric: Any) -> str:
    if callable(metric):
        return str(metric.__name__)
    return metric.rpartition(".")[2] if _is_function(metric) else str(metric)


def _near(name: Any, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=3)
    return f"near are: {', '.join(near)}" if near else f"there are: {', '.join(names)}"
