"""How training is laid out over processes, settled from the configuration and the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from longcat.accelerator import Accelerator
from longcat.config import PipelineConfig
from longcat.errors import ConfigError


@dataclass(frozen=True)
class ParallelLayout:
    """Processes of a training run, what they spread, and the type that they compute in."""

    accelerator: Literal["npu", "cuda", "cpu"]
    processes: int
    expert_parallel: int
    """Processes over which the routed experts are spread."""
    precision: Literal["bf16", "fp32"]


def settle_layout(config: PipelineConfig, accelerator: Accelerator) -> ParallelLayout:
    """Settle the processes and the precision that the configuration leaves to the machine.

    Raises:
        ConfigError: batch, processes and expert parallelism do not fit one another, or the precision is missing here.
    """
    training = config.training
    processes = training.processes or accelerator.count
    expert_parallel = training.expert_parallel or math.gcd(processes, config.model.n_routed_experts)
    if processes % expert_parallel:
        raise ConfigError(
            f"training.expert_parallel={expert_parallel} does not divide training.processes={processes}"
            + ("" if training.processes else f" (this machine's count of {accelerator.kind} devices)")
        )
    if training.global_batch_sequences % processes:
        raise ConfigError(
            f"training.global_batch_sequences={training.global_batch_sequences} is not a multiple of training.processes={processes}"
        )
    if accelerator.kind != "cpu" and processes > accelerator.count:
        raise ConfigError(
            f"training.processes={processes}, but there are {accelerator.count} {accelerator.kind} devices"
        )
    precision = training.precision
    if precision == "auto":
        precision = "bf16" if accelerator.supports_bf16 else "fp32"
    return ParallelLayout(accelerator.kind, processes, expert_parallel, precision)
