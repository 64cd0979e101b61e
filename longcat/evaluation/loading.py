"""Loading tasks with their data, and saying what is wrong with one that the harness cannot load."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from longcat.errors import DataError, LongcatError
from longcat.evaluation.catalog import Catalog, Part, told
from longcat.evaluation.documents import check_documents
from longcat.evaluation.task_keys import key_problem

_SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")


@dataclass(frozen=True)
class Loaded:
    """What a name stands for."""

    tasks: dict[str, Any]
    """lm-evaluation-harness' tasks by name, with their data."""
    groups: dict[str, Any]
    """Its groups by name."""


def load_tasks(catalog: Catalog, name: str) -> Loaded:
    """Load what a name stands for, with its data.

    Raises:
        DataError: the harness refuses a task, or its data cannot be loaded; says which key, file or line is at fault.
    """
    try:
        found = catalog.manager.load([name])
    except LongcatError:
        raise
    except Exception as error:  # what loaders, templates and a task's own code raise
        task = _being_loaded(error)
        if task is not None:
            _explain(task, catalog.source(task.task_name) or catalog.parts[name][0])
        sets = sorted({pin for part in catalog.parts[name] for pin in part.pins})
        where = f"data set {', '.join(sets)}" if sets else f"{catalog.parts[name][0].files[0]}"
        raise DataError(f"evaluation.tasks: {name} cannot be loaded ({where}): {told(error)}") from error
    return Loaded(found["tasks"], dict(found.get("groups") or {}))


def _being_loaded(error: BaseException) -> Any:
    """Return the task that the harness was making when it failed, as far as it came; None outside of any."""
    from lm_eval.api.task import ConfigurableTask

    trace = error.__traceback__
    while trace is not None:
        maker = trace.tb_frame.f_locals.get("self")
        if isinstance(maker, ConfigurableTask) and maker.config is not None:
            return maker
        trace = trace.tb_next
    return None


def _explain(task: Any, part: Part) -> None:
    """Refuse a task by the reason why it cannot be loaded, if that is found.

    Args:
        task: as far as it was made when it failed.
        part: where it comes from.

    Raises:
        DataError: the reason.
    """
    where = part.files[0]
    config = task.config
    keys = {key: value for key, value in vars(config).items() if value is not None}
    keys.pop("fewshot_config", None)
    problem = key_problem(keys, whole=True, registers=False)
    if problem is not None:
        raise DataError(f"{where}: {problem}")
    if getattr(task, "dataset", None) is None:
        return
    for key in _SPLITS:
        split = getattr(config, key)
        if split is not None and split not in task.dataset:
            raise DataError(f"{where}: {key}: there is no split {split!r}; there are: {', '.join(task.dataset)}")
    files = ", ".join(str(file) for file in part.data) or f"data set {config.dataset_path}"
    split = config.test_split or config.validation_split
    if len(task.dataset[split]) == 0:
        raise DataError(f"{files}: there are no documents in split {split!r}")
    documents = _documents(config.process_docs, task.dataset[split], part)
    task.features = list(documents.features)
    task.multiple_input = 0
    task.prompt = None
    check_documents(task, part)


def _documents(process: Callable[[Any], Any] | None, split: Any, part: Part) -> Any:
    """Return the documents that a task's own function makes of a split."""
    if process is None:
        return split
    where = part.files[0]
    name = getattr(process, "__name__", repr(process))
    try:
        documents = process(split)
    except Exception as error:  # what a task's own code raises
        raise DataError(f"{where}: process_docs: {name} raises {told(error)}{_line(error, part)}") from error
    if not hasattr(documents, "features"):
        raise DataError(
            f"{where}: process_docs: {name} returns {_kind(documents)}, and has to return the documents as a datasets.Dataset"
        )
    if len(documents) == 0:
        raise DataError(f"{where}: process_docs: {name} leaves none of the {len(split)} documents")
    return documents


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _line(error: BaseException, part: Part) -> str:
    """Return where in a task's own code an error was raised, in brackets; nothing if that is not known."""
    own = {str(file) for file in part.files}
    lines = [
        f" ({one.filename}:{one.lineno})" for one in traceback.extract_tb(error.__traceback__) if one.filename in own
    ]
    return lines[-1] if lines else ""
