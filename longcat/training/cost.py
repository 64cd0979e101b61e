"""What training a configuration costs: its parameters, the FLOPs of a token and the memory of a device. Nothing runs."""

from __future__ import annotations

from dataclasses import dataclass

from longcat.accelerator import Accelerator
from longcat.config import PipelineConfig, target_ffn_experts
from longcat.costs.memory import TrainingMemory, training_memory
from longcat.costs.workload import Workload, longcat_workload
from longcat.parallel.asked import spread_of
from longcat.training.layout import settle_layout


@dataclass(frozen=True)
class Cost:
    """What a model costs."""

    total_parameters: int
    """All weights, look-up tables included."""
    activated_parameters: float
    """Weights that a mean token is multiplied by: no look-ups, of the routed experts only the chosen ones."""
    sequence_length: int
    """Tokens of a row, which the work of attention grows with."""
    flops_per_token: float
    """FLOP of the forward and the backward pass for one token, masked attention scores not counted."""
    devices: int | None
    """That training is divided over; None for a model without settings of a training."""
    memory: TrainingMemory | None
    """Estimate for the device that needs most, in bytes: `memory.peak` and its parts; None without settings of a training."""

    @classmethod
    def of_workload(cls, workload: Workload, sequence_length: int) -> Cost:
        """Return what a model costs of which no training is known."""
        flops = workload.training_flops(sequence_length)
        return cls(workload.total_parameters, workload.activated_parameters, sequence_length, flops, None, None)


DEVICE_BYTES = 64_000_000_000
"""Memory of a device that nothing is said of, an Ascend 910B's."""


def cost_of(config: PipelineConfig, devices: int | None = None, device_bytes: int = DEVICE_BYTES) -> Cost:
    """Return what the training of a configuration costs.

    Args:
        config: the configuration; its precision `auto` stands for bf16.
        devices: that training is divided over; `training.processes` by default, one where that is left to the machine.
        device_bytes: memory of a device: weights stay gathered within a share of it.

    Raises:
        ConfigError: the layout does not fit so many devices; names the nearest one that does.
    """
    count = devices or config.training.processes or 1
    training = config.training.model_copy(update={"processes": count})
    config = config.model_copy(update={"training": training})
    layout = settle_layout(config, Accelerator("cpu", "none", 1, device_bytes, supports_bf16=True))
    length = config.corpus.sequence_length_tokens
    workload = longcat_workload(config.model, target_ffn_experts(config.model, training.balance))
    memory = training_memory(
        config.model,
        training,
        spread_of(layout.degrees),
        layout.precision,
        config.parallel,
        length,
        device_bytes,
        "npu",
    )
    return Cost(
        workload.total_parameters,
        workload.activated_parameters,
        length,
        workload.training_flops(length),
        count,
        memory,
    )
