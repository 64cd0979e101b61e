"""Documents of lm-evaluation-harness tasks: whether each has a question, choices and an answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longcat.errors import ConfigError, DataError
from longcat.evaluation.catalog import Part, told
from longcat.evaluation.task_files import line_of


def check_documents(task: Any, part: Part | None) -> None:
    """Refuse a task with a document that cannot be asked.

    Args:
        task: of lm-evaluation-harness, with its data.
        part: where it comes from, for messages.

    Raises:
        DataError: a document has no question, no choices, an empty choice, or an answer that is none of them; says which.
    """
    for number, document in enumerate(task.eval_docs):
        try:
            problem = _problem(task, document)
        except Exception as error:  # what templates and a task's own functions raise
            problem = told(error)
        if problem is not None:
            raise DataError(f"{_where(task, part, number)}: {problem}")


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
    if (missing := _missing(task, document)) is not None:
        return f"the field {missing!r} is missing"
    target = task.doc_to_target(document)
    text = task.doc_to_text(document)
    if task.OUTPUT_TYPE != "multiple_choice":
        return "there is no answer (doc_to_target gives nothing)" if target is None or target == [] else None
    choices = task.doc_to_choice(document)
    if not isinstance(choices, list) or not choices:
        return f"the list of choices is empty (doc_to_choice gives {choices!r})"
    for choice in choices:
        if not isinstance(choice, str) or not f"{task.config.target_delimiter}{choice}":
            return f"the choice {choice!r} is no text that could be scored"
    answer = text if isinstance(text, int) else target
    for one in answer if isinstance(answer, list) else [answer]:
        is_one = one in choices if isinstance(one, str) else isinstance(one, int) and 0 <= one < len(choices)
        if not is_one and not (isinstance(text, int) and isinstance(target, str)):
            return f"the answer {one!r} is none of the {len(choices)} choices"
    return None if answer != [] else "the list of answers is empty"


def _missing(task: Any, document: Mapping[str, Any]) -> str | None:
    """Return a field that the task takes as it is, and that the document does not have."""
    fields = (task.config.doc_to_text, task.config.doc_to_target, task.config.doc_to_choice)
    for template in fields:
        if not isinstance(template, str):
            continue
        plain = template.removeprefix("{{").removesuffix("}}").strip()
        if plain in document and document[plain] is None:
            return plain
    return None


def _where(task: Any, part: Part | None, number: int) -> str:
    """Say where a document is; its line where it is known."""
    files: list[Path] = [] if part is None else [file for file in part.data if file.suffix == ".jsonl"]
    if len(files) == 1 and task.config.process_docs is None:
        return f"{files[0]}:{line_of(files[0], number)}"
    return f"task {task.task_name}, document {number}"
