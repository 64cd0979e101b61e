"""What pre-training can refuse before any stage starts."""

from __future__ import annotations

from longcat.config import PipelineConfig
from longcat.costs.memory import Spread, training_memory
from longcat.errors import ConfigError
from longcat.training.layout import settle_layout, settle_precision, training_device

_GIB = 2**30


def check_training(config: PipelineConfig) -> None:
    """Refuse a device that is not there, a layout that does not fit, and a model that does not fit into memory.

    Raises:
        DeviceError: the accelerator that was asked for cannot be used here.
        ConfigError: the batch, the processes and the experts do not fit one another, or the model's states are larger
            than the memory of the device (of this machine, on a CPU).
    """
    accelerator = training_device(config)
    if not accelerator.memory_bytes:  # of nodes that are not known yet
        settle_layout(config, accelerator)
        return
    nodes = config.training.nodes
    processes = config.training.processes or accelerator.count * nodes
    most = Spread(processes, dense=processes, holders=processes, expert=processes, tables=processes, batch=processes)
    memory = training_memory(
        config.model,
        config.training,
        most,
        settle_precision(config, accelerator),
        config.parallel,
        config.corpus.sequence_length_tokens,
        accelerator.memory_bytes,
    )
    on_cpu = accelerator.kind == "cpu"
    needed = memory.states * (processes // nodes if on_cpu else 1)
    if needed > accelerator.memory_bytes:
        where = "this machine has" if on_cpu else f"a device ({accelerator.name}) has"
        parts = ", ".join(f"{name.replace('_', ' ')} {size / _GIB:,.1f}" for name, size in memory.parts().items())
        raise ConfigError(
            f"the model does not fit: its weights, gradients and optimizer states need at least {needed / _GIB:,.1f} GiB "
            f"{'in all processes' if on_cpu else 'per device'}, {where} {accelerator.memory_bytes / _GIB:,.1f} GiB "
            f"(per process, GiB: {parts}); use a smaller model or preset, or more devices"
        )
    settle_layout(config, accelerator)
