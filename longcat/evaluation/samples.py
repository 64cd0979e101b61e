"""Samples of lm-evaluation-harness tasks: each document with what the model made of it, and what guessing would get."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

_CHOSEN = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
"""Metrics of multiple choice that a guesser gets right once in so many choices."""
_RIGHT = ("acc", "exact_match", "right")
"""Metrics that say whether an answer is right, the first one first."""


def chance_of(task: Any, logged: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what guessing gets by metric: what the task's `metadata.chance` says, or the mean of 1 / number of choices.

    Args:
        task: of the harness; `metadata.chance` is a number by metric, or one for all metrics that are right or wrong.
        logged: its samples, as the harness logs them.
    """
    metadata = task.get_config("metadata")
    stated = metadata.get("chance") if isinstance(metadata, dict) else None
    if isinstance(stated, Mapping):
        return {str(name): float(value) for name, value in stated.items()}
    if isinstance(stated, int | float):
        names = sorted({name for sample in logged for name in sample["metrics"]})
        verdicts = [name for name in names if all(_is_verdict(sample.get(name, 0)) for sample in logged)]
        return dict.fromkeys(verdicts, float(stated))
    if task.OUTPUT_TYPE != "multiple_choice" or not logged:
        return {}
    shares = []
    for sample in logged:
        target, choices = sample["target"], task.doc_to_choice(sample["doc"])
        shares.append((len(set(target)) if isinstance(target, list) else 1) / len(choices))
    return dict.fromkeys(_CHOSEN, sum(shares) / len(shares))


def samples_of(task: Any, logged: Sequence[Mapping[str, Any]], dropped: Mapping[int, int]) -> list[dict[str, Any]]:
    """Return documents with their answers; one record each, for each filter of the answers.

    Every record has `document` (its number), `filter`, `prompt`, `target`, `answer`, `right` (true, false, or null where no
    metric says it), `scores` (by metric) and `dropped_tokens`. Likelihoods are in nats: `log_likelihoods`, in
    multiple choice one for each of `choices`.

    Args:
        task: of the harness.
        logged: its samples, as the harness logs them.
        dropped: tokens that were cut off the beginning of a prompt, by document.
    """
    return [plain(_sample(task, one) | {"dropped_tokens": dropped.get(one["doc_id"], 0)}) for one in logged]


def sample_file(task: str) -> str:
    """Return the name of the file of a task's samples; different tasks have different ones."""
    return f"{quote(task, safe='')}.jsonl"


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: what has no form in it becomes its text, and what is no finite number becomes null."""
    return json.loads(json.dumps(value, default=_simple), parse_constant=lambda _: None)


def _sample(task: Any, logged: Mapping[str, Any]) -> dict[str, Any]:
    arguments, metrics = logged["arguments"], logged["metrics"]
    scores = {name: logged[name] for name in metrics if isinstance(logged[name], int | float | np.generic)}
    right = next((bool(scores[name]) for name in _RIGHT if scores.get(name) in (0, 1)), None)
    record = {
        "document": logged["doc_id"],
        "filter": logged["filter"],
        "prompt": arguments[0][0],
        "target": logged["target"],
        "answer": logged["filtered_resps"][0],
        "right": right,
        "scores": scores,
    }
    if task.OUTPUT_TYPE == "generate_until":
        return record | {"generated": logged["resps"][0]}
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return record | {"answer": None, "log_likelihoods": [logged["resps"][0][0]]}
    nats = [responses[0][0] for responses in logged["resps"]]
    if task.OUTPUT_TYPE == "loglikelihood":
        return record | {"answer": bool(logged["resps"][0][0][1]), "log_likelihoods": nats}
    choices = task.doc_to_choice(logged["doc"])
    nats = nats[: len(choices)]
    if task.multiple_input:  # the choices are in the prompts
        record |= {"prompt": None, "target": task.doc_to_text(logged["doc"])}
        choices = [context for context, _ in arguments[: len(choices)]]
    return record | {"choices": choices, "log_likelihoods": nats, "answer": int(np.argmax(nats))}


def _is_verdict(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.generic) and value in (0, 1)


def _simple(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | set | tuple):
        return list(value)
    return str(value)
