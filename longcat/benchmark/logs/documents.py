"""Whole JSON documents: trainer_state.json, train_results.json, wandb's summary, exported histories, any indented record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.keys import Merged, add_record, flat, kind_of
from longcat.benchmark.logs.stream import pieces
from longcat.errors import DataError

LARGEST = 48 << 20
"""Bytes of text up to which a document is read whole; its values take several times that."""


def looks_like_json(head: str) -> bool:
    """Return whether a text begins as a JSON object or a list of objects does."""
    start = head.lstrip()
    rest = start[1:].lstrip()
    return (start[:1] == "{" and rest[:1] in ('"', "}")) or (start[:1] == "[" and rest[:1] == "{")


def is_one_line(head: str) -> bool:
    """Return whether the first line is a record of its own, so that the file has one a line."""
    line = head.lstrip().split("\n", 1)[0]
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def read_document(path: Path, log: Collected) -> str | None:
    """Read a file that is one JSON document; return the tool that wrote it, None if the file is no such document.

    Raises:
        DataError: the document is damaged or too large.
    """
    text = ""
    for _, piece in pieces(path):
        text += piece
        if len(text) > LARGEST:
            raise DataError(
                f"{path}: a JSON document of more than {LARGEST >> 20} MB; give JSON lines, one record each"
            )
    try:
        document = json.loads(text)
    except RecursionError:
        raise DataError(f"{path}: damaged JSON: nested too deeply") from None
    except ValueError as error:
        if '"log_history"' in text:
            raise DataError(f"{path}: trainer_state.json is damaged: {error}") from None
        raise DataError(f"{path}: damaged JSON: {error}") from None
    if isinstance(document, list):
        return _records(log, [record for record in document if isinstance(record, dict)])
    if not isinstance(document, dict):
        return None
    if "log_history" in document:
        return _trainer_state(path, document, log)
    if any("log_history" in value for value in document.values() if isinstance(value, dict)):
        raise DataError(f"{path}: trainer_state.json is damaged: log_history is not at its top")
    record = flat(document)
    add_record(log, 1, record)
    return kind_of(record, "wandb" if any(name.startswith("_wandb") for name in record) else "JSON")


def _records(log: Collected, records: list[dict[str, Any]]) -> str:
    names: set[str] = set()
    for index, record in enumerate(records, start=1):
        flattened = flat(record)
        names.update(flattened)
        add_record(log, index, flattened)
    return kind_of(names, "JSON")


def _trainer_state(path: Path, state: Mapping[str, Any], log: Collected) -> str:
    history = state["log_history"]
    if not isinstance(history, list):
        raise DataError(f"{path}: trainer_state.json is damaged: log_history is no list")
    log.state["one history"] = True
    merged = Merged(log)
    for index, entry in enumerate(history, start=1):
        if isinstance(entry, dict):
            record = {name: value for name, value in entry.items() if name != "total_flos" or "train_runtime" in entry}
            merged.add(index, flat(record), None)
    merged.flush()
    for name, key in (("tokens", "num_input_tokens_seen"), ("flos", "total_flos")):
        value = state.get(key)
        if isinstance(value, int | float) and value > 0 and not log.final.get(name):
            log.final[name] = float(value)
    if not log.final.get("seconds") and not log.known(("counted", "rate", "seconds")):
        raise DataError(f"{path}: trainer_state.json has no train_runtime: the run has not ended")
    return "transformers' Trainer"
