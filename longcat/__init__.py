"""longcat: pre-train LongCat mixture-of-experts models on Ascend NPUs, and say how that compares with A100s.

As a library (docs/library.md): `load` a checkpoint to generate and score text, `tokenise` a corpus, `run` a stage or the whole
pipeline, and ask for the `cost` of a model or the `mfu` of a run.

Importing this package loads nothing else: neither torch, torch_npu, mlflow nor prefect. A name is imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longcat.api import Model, Run, cost, load, load_config, mfu, run, tokenise

__version__ = "0.1.0"
__all__ = ["Model", "Run", "cost", "load", "load_config", "mfu", "run", "tokenise"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("longcat.api"), name)
    raise AttributeError(f"module 'longcat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
