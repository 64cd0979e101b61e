"""What the software of a training run does with memory and tokens: the numbers beside the layout, as published runs show them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from longcat.errors import ConfigError
from longcat.provenance import DATA

TABLES = DATA / "reference/plan"
OWN = "longcat"
"""The stack of this repository, whose memory and traffic have formulas of their own."""


@dataclass(frozen=True)
class Stack:
    """How a program trains; numbers that were fitted are named with their source in data/reference/plan/README.md."""

    name: str
    tokens_divided: bool
    """Whether processes that share heads divide the tokens in between (sequence parallelism)."""
    gradient_bytes: float
    """Of an element of a gradient, as it waits for the end of a step."""
    gradient_sent_bytes: float
    """Of an element of a gradient on its way to other processes."""
    copies: float
    """What is kept of the results of products for each time the backward pass needs them."""
    logits_divided_bytes: float
    """Kept for each token and word of a process' part of the vocabulary."""
    logits_whole_bytes: float
    """Kept for each token and word of the whole vocabulary."""
    layer_bytes: float
    """Of a weight of the largest layer: its gradients before they are added up."""
    recompute_copies: float
    """Of a layer's activations, those that live while it is computed again."""
    reserve_bytes: float
    """What the driver and the collectives take for themselves."""
    kernels: str
    """Set of kernels without recomputation."""
    kernels_recomputed: str
    """The same with recomputation of whole layers."""


@dataclass(frozen=True)
class Kernels:
    """Implementations of attention and norms."""

    name: str
    attention: str
    """Name of the efficiency of attention: a column of efficiency.csv, or `products` where scores are written to memory."""
    score_passes: float
    """How often a score of attention is read or written in a forward pass; 0 where it stays on the chip."""
    score_bytes: float
    """Kept of each score."""
    norm_passes: float
    """How often a number of the residual stream is read or written in a norm's forward pass."""
    norm_copies: float
    """Numbers kept in a norm for each number of the residual stream, beyond its input and its result."""


def _rows(name: str) -> list[dict[str, str]]:
    with (TABLES / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _read(kind: type[Any], row: dict[str, str]) -> Any:
    types: dict[str, Callable[[str], Any]] = {"str": str, "bool": lambda text: text == "yes", "float": float}
    return kind(**{name: types[one.type](row[name]) for name, one in kind.__dataclass_fields__.items()})


@lru_cache(maxsize=1)
def stacks() -> dict[str, Stack]:
    """Return the stacks of data/reference/plan/stacks.csv by name."""
    return {row["name"]: _read(Stack, row) for row in _rows("stacks.csv")}


@lru_cache(maxsize=1)
def all_kernels() -> dict[str, Kernels]:
    """Return the sets of kernels of data/reference/plan/kernels.csv by name."""
    return {row["name"]: _read(Kernels, row) for row in _rows("kernels.csv")}


def named(option: str, name: str, known: dict[str, Any]) -> Any:
    """Return what has this name.

    Raises:
        ConfigError: nothing has; says what there is, and what is near.
    """
    if name in known:
        return known[name]
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}; " if close else ""
    raise ConfigError(f"{option} {name}: {hint}there are {', '.join(known)}")
