"""Steps of operators that torch's compiler makes one kernel of each, where training is compiled on a CUDA device.

Layers are compiled, but not their routing: its shapes follow from the data, and the host reads them amid it. What is left there
are passes over all rows, each of which takes as long as reading and writing them does; a few of them in one take a third of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_FUSES = [False]


@contextmanager
def fusing(whether: bool) -> Iterator[None]:
    """Let this process fuse steps or not, in gradients' threads too."""
    _FUSES.append(whether)
    try:
        yield
    finally:
        _FUSES.pop()


def fuse_from_now_on() -> None:
    """Let this process fuse steps."""
    _FUSES[0] = True


def is_fusing() -> bool:
    """Say whether steps are fused."""
    return _FUSES[-1]


def fusible(step: Callable[P, R]) -> Callable[P, R]:
    """Make a function one kernel where steps are fused: sizes that differ from call to call are found out by themselves."""

    @cache
    def fused() -> Callable[P, R]:
        return torch.compile(step)  # loads all of the compiler, a second of work that other processes do without

    @wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return (fused() if is_fusing() else step)(*args, **kwargs)

    return run
