"""Documents of lm-evaluation-harness tasks: whether each has a question, choices and an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longcat.errors import ConfigError, DataError
from longcat.evaluation.catalog import Part, told
from longcat.evaluation.task_files import record_at

_WRITTEN_OUT = re.compile(r"\{\{-?\s*(\w+)\s*-?\}\}")
_SHOWN = 60
"""Characters of a value in a message."""


def check_documents(task: Any, part: Part | None) -> None:
    """Refuse a task with a document that cannot be asked.

    Args:
        task: of lm-evaluation-harness, with its data.
        part: where it comes from, for messages.

    Raises:
        DataError: a document has no question, no choices, an empty choice, or an answer that is none of them; says which.
    """
    for number, document in enumerate(task.eval_docs):
        null = next((name for name in _written_out(task) if name in document and document[name] is None), None)
        try:
            problem = _problem(task, document) if null is None else None
        except Exception as error:  # what templates and a task's own functions raise
            null = next((name for name in _used(task) if document.get(name) is None), None)
            problem = told(error)
        if null is not None or problem is not None:
            where, record = _place(task, part, number)
            problem = _absence(null, document if record is None else record) if null is not None else problem
            raise DataError(f"{where}: {problem}")


def check_examples(task: Any) -> None:
    """Refuse a task with more examples before a question than there are documents to take them from.

    Raises:
        ConfigError: says how many there are.
    """
    examples, sampler = task.config.num_fewshot or 0, getattr(task, "sampler", None)
    if not examples or sampler is None:
        return
    among = task.fewshot_cfg.split
    itself = among is not None and among == task.config.test_split
    there = len(sampler.fewshot_docs()) - itself
    if examples > there:
        besides = " besides the question itself" if itself else ""
        raise ConfigError(
            f"evaluation.tasks: {task.task_name}: {examples} examples before each question, and there are {there} documents"
            f"{besides} to take them from; num_fewshot of the task or evaluation.few_shot says how many"
        )


def _problem(task: Any, document: Mapping[str, Any]) -> str | None:
    target = task.doc_to_target(document)
    text = task.doc_to_text(document)
    if not isinstance(text, str) and not (isinstance(text, int) and task.OUTPUT_TYPE == "multiple_choice"):
        return f"the question {_short(text)} is no text"
    if task.OUTPUT_TYPE != "multiple_choice":
        return "there is no answer (doc_to_target gives nothing)" if target is None or target == [] else None
    choices = _choices(task, document)
    if not isinstance(choices, list):
        return f"the choices {_short(choices)} are no list"
    if not choices:
        return "the list of choices is empty"
    for choice in choices:
        if not isinstance(choice, str) or not f"{task.config.target_delimiter}{choice}":
            return f"the choice {choice!r} is no text that could be scored"
    answer = text if isinstance(text, int) else target
    for one in answer if isinstance(answer, list) else [answer]:
        is_one = one in choices if isinstance(one, str) else isinstance(one, int) and 0 <= one < len(choices)
        if not is_one and not (isinstance(text, int) and isinstance(target, str)):
            return f"the answer {one!r} is none of the {len(choices)} choices"
    return None if answer != [] else "the list of answers is empty"


def _choices(task: Any, document: Mapping[str, Any]) -> Any:
    """Return the choices of a document; the text that a template makes where that is the text of no list."""
    from lm_eval.utils import apply_template

    template = task.config.doc_to_choice
    try:
        return task.doc_to_choice(document)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if not isinstance(template, str):
            raise
        return apply_template(template, dict(document))


def _templates(task: Any) -> list[str]:
    fields = (task.config.doc_to_text, task.config.doc_to_target, task.config.doc_to_choice)
    return [field for field in fields if isinstance(field, str)]


def _written_out(task: Any) -> list[str]:
    """Return the fields that the task's templates write out as they are."""
    names = [name for template in _templates(task) for name in (template, *_WRITTEN_OUT.findall(template))]
    return list(dict.fromkeys(names))


def _used(task: Any) -> list[str]:
    """Return the fields that the task's templates use in any way."""
    from jinja2 import TemplateError
    from jinja2.meta import find_undeclared_variables
    from lm_eval.utils import env

    names: list[str] = []
    for template in _templates(task):
        try:
            names += sorted(find_undeclared_variables(env.parse(template)) - env.globals.keys())
        except TemplateError:  # told by whoever renders it
            continue
    return list(dict.fromkeys(names))


def _absence(name: str, record: Mapping[str, Any]) -> str:
    """Say how a document lacks a field.

    Args:
        name: of the field.
        record: the document as its file has it, where that is known; else with every field that any document has.
    """
    if name in record:
        return f"the field {name!r} is null"
    return f"the field {name!r} is missing; there are: {', '.join(record)}"


def _place(task: Any, part: Part | None, number: int) -> tuple[str, dict[str, Any] | None]:
    """Say where a document is, and return it as its file has it; None where its line is not known."""
    split = task.config.test_split or task.config.validation_split
    files: list[Path] = [] if part is None else part.files_of(split)
    if len(files) == 1 and files[0].suffix == ".jsonl" and task.config.process_docs is None:
        line, record = record_at(files[0], number)
        return f"{files[0]}:{line}", record
    return f"task {task.task_name}, document {number}", None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
