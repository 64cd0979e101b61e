"""How training is laid out over processes, settled from the configuration and the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from longcat.accelerator import Accelerator, choose
from longcat.config import PipelineConfig
from longcat.errors import ConfigError, DeviceError
from longcat.parallel.asked import wish_of
from longcat.parallel.axes import Degrees
from longcat.parallel.nodes import levels


@dataclass(frozen=True)
class ParallelLayout:
    """Accelerator of a training run, its processes along each axis of parallelism, and the type that they compute in."""

    accelerator: Literal["npu", "cuda", "cpu"]
    degrees: Degrees
    precision: Literal["bf16", "fp32"]


def training_device(config: PipelineConfig) -> Accelerator:
    """Choose what training computes on: this machine's accelerator, or the nodes' where this machine has none of that kind.

    Raises:
        DeviceError: the accelerator is not there, and training is to run here.
        ConfigError: it is not there, and the configuration leaves to it what the nodes will have.
    """
    training = config.training
    try:
        return choose(config.accelerator)
    except DeviceError:
        if training.launcher == "local" or config.accelerator == "auto":
            raise
    if not training.processes or training.precision == "auto":
        raise ConfigError(
            f"this machine has no {config.accelerator} to settle training.processes and training.precision by: set both, as the "
            "nodes have it"
        )
    return Accelerator(
        kind=config.accelerator,
        name=f"{config.accelerator} of the nodes",
        count=training.processes // training.nodes,
        memory_bytes=0,
        supports_bf16=training.precision == "bf16",
    )


def settle_layout(config: PipelineConfig, accelerator: Accelerator, nodes: int | None = None) -> ParallelLayout:
    """Settle the processes and the precision that the configuration leaves to the machine.

    Args:
        config: sections `training`, `parallel`, `model` and `corpus`.
        accelerator: of each node.
        nodes: that take part; those of the configuration if None. Each has its share of `training.processes`.

    Raises:
        ConfigError: batch, processes and expert parallelism do not fit one another, or the precision is missing here.
    """
    training = config.training
    if config.parallel.pipeline > 1 and config.parallel.schedule == "zbv" and training.compile:
        raise ConfigError(
            "parallel.schedule=zbv takes the gradients of weights and inputs apart, which training.compile=true cannot; "
            "parallel.schedule=interleaved would fit"
        )
    nodes = nodes or training.nodes
    each = training.processes // training.nodes or accelerator.count
    processes = each * nodes
    wish = wish_of(config, processes)
    try:
        degrees = wish.settle()
    except ConfigError as error:
        if training.processes and nodes == training.nodes:
            raise
        if training.processes:
            raise ConfigError(f"{error} ({nodes} of training.nodes={training.nodes} nodes are there)") from error
        raise ConfigError(
            f"{error} (processes are left to this machine, with {processes} x {accelerator.kind})"
        ) from error
    if config.parallel.two_level:
        for first in range(0, processes, degrees.expert):
            levels(range(first, first + degrees.expert), first, config.parallel.devices_per_node or each)
    if accelerator.kind != "cpu" and each > accelerator.count:
        where = f" on each of {nodes} nodes" if nodes > 1 else ""
        raise ConfigError(
            f"training.processes={processes}, but there are {accelerator.count} {accelerator.kind} devices{where}"
        )
    return ParallelLayout(accelerator.kind, degrees, settle_precision(config, accelerator))


def settle_precision(config: PipelineConfig, accelerator: Accelerator) -> Literal["bf16", "fp32"]:
    """Return the precision that is computed in: `auto` stands for bf16 where the hardware has it."""
    if config.training.precision == "auto":
        return "bf16" if accelerator.supports_bf16 else "fp32"
    return config.training.precision
