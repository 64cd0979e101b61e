"""Configuration of the layout: how many processes share the work along each axis of parallelism (docs/parallel.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from longcat.config.section import RUNTIME, Formerly, Section


class ParallelConfig(Section):
    """How training is laid out over its processes; `longcat.parallel.axes` has the arithmetic.

    None of it is in the identity of a checkpoint: training goes on under another layout, with the same numbers within rounding.
    """

    pipeline: Annotated[int, RUNTIME] = Field(default=1, ge=1)
    """Stages that divide the layers; a micro-batch goes through them one after the other."""
    schedule: Annotated[Literal["1f1b", "interleaved", "zbv"], RUNTIME] = "1f1b"
    """Order of a pipeline's forward and backward passes: `1f1b` with one stage a process; `interleaved` and `zbv` (zero bubble)
    with two, so that processes wait less and hidden states travel more."""
    replicate: Annotated[int, RUNTIME] = Field(default=1, ge=1)
    """Groups of processes that each hold all parameters: their gradients are summed between the groups once a step,
    instead of parameters gathered over all processes. For a slow link between groups of devices with a fast one."""
    shard: Annotated[int, RUNTIME] = Field(default=0, ge=0)
    """Processes that read different rows and share parameters, gradients and optimizer state; 0 takes those that the other axes
    leave."""
    context: Annotated[int, RUNTIME] = Field(default=1, ge=1)
    """Processes that divide the tokens of their rows, for rows too long for one device."""
    tensor: Annotated[int, RUNTIME] = Field(default=1, ge=1)
    """Processes that divide the heads of attention and the dense feed-forward networks, and the tokens in between."""
    expert: Annotated[int, Formerly("training.expert_parallel"), RUNTIME] = Field(default=0, ge=0)
    """Processes that hold one set of routed experts between them; 0 takes the most that divide the processes of a
    stage and the routed experts."""
    embedding: Annotated[bool, RUNTIME] = False
    """Spread the rows of the n-gram tables over all processes, which fetch those they look up, instead of gathering the tables
    whole in every process. Right for tables that are large against the rows that a batch reads."""
    chunks: Annotated[int, RUNTIME] = Field(default=1, ge=1)
    """Parts in which a layer's tokens are sent to experts of other processes: experts compute one part while the next is on
    its way."""
    two_level: Annotated[bool, RUNTIME] = False
    """Send a token once to every node that has one of its experts, and pass it on there, instead of once to each expert: for
    links between nodes that are slower than those within."""
    devices_per_node: Annotated[int, RUNTIME] = Field(default=0, ge=0)
    """Processes on each node, for `two_level`; 0 takes as many as this node has."""

    def spreads_tables(self, processes: int, rows_alone: bool) -> bool:
        """Say whether rows of the n-gram tables are looked up one by one; a single process gains by it with `rows_alone` only."""
        return self.embedding and (processes > 1 or rows_alone)
