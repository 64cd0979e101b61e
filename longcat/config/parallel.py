"""Configuration of the layout: how many processes share the work along each axis of parallelism (docs/pretrain.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from longcat.config.section import Formerly, Section


class ParallelConfig(Section):
    """How training is laid out over its processes; `longcat.parallel.axes` has the arithmetic."""

    expert: Annotated[int, Formerly("training.expert_parallel")] = Field(default=0, ge=0)
    """Processes that hold one set of routed experts between them; 0 takes the most that divide the processes and the
    routed experts."""
