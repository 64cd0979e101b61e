"""What the YAML files of this folder call: how lm-evaluation-harness gets the items, and checks what is generated."""

from pathlib import Path
from typing import Any

import datasets

from longcat.evaluation.local_services.checkers import is_right


def load(items: str, **_: Any) -> dict[str, datasets.Dataset]:
    """Read a JSONL file of this folder, wherever the harness is started."""
    file = Path(__file__).with_name(items)
    return {"test": datasets.Dataset.from_json(str(file), keep_in_memory=True)}


def check(item: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return 1 for a generated text that holds the right answer and no other, else 0."""
    right = is_right(item["form"], item["choices"][item["answer"]], item["choices"], results[0])
    return {"right": float(right)}
