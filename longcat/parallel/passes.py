"""Regions of a step's forward and backward passes, for a profiler."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, get_args

import torch

Kind = Literal["forward", "backward", "weights"]
"""Of a pass; `weights` computes the gradients of weights that a backward pass has left for later."""


class Pass(NamedTuple):
    """A micro-batch in a part of the model."""

    kind: Kind
    micro_batch: int
    """Its number in the step."""
    part: int
    """Number of the stage among those of the whole pipeline, 0 without one."""

    @property
    def region(self) -> str:
        """The region's name."""
        return f"longcat.{self.kind} {self.micro_batch} on {self.part}"


_REGION = re.compile(rf"longcat\.({'|'.join(get_args(Kind))}) (\d+) on (\d+)")


def passing(kind: Kind, micro_batch: int, part: int = 0) -> AbstractContextManager[Any]:
    """Mark what runs inside as a pass."""
    return torch.profiler.record_function(Pass(kind, micro_batch, part).region)


def pass_of(region: str) -> Pass | None:
    """Return the pass that a region's name tells, None of any other region."""
    found = _REGION.fullmatch(region)
    if found is None:
        return None
    kind: Any = found[1]
    return Pass(kind, int(found[2]), int(found[3]))
