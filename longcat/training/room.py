"""Room that training will need on the disk and in memory, by formulas, so that it is told before the first stage starts."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from longcat.config import PipelineConfig
from longcat.costs.memory import Spread, training_memory
from longcat.errors import StorageError
from longcat.parallel.asked import spread_of
from longcat.printable import large_bytes
from longcat.training.layout import settle_layout, training_device

_PROGRAM_BYTES = 0.5e9
"""Memory of a training process without a model, as measured: torch and what it loads."""


def doubts(config: PipelineConfig, workspace: Path) -> list[str]:
    """Return what training will probably lack here, each with its remedy.

    Args:
        config: the whole configuration; its checks have passed.
        workspace: where its checkpoints go.
    """
    return [text for text in (_memory(config), _disk(config, workspace)) if text]


def check_room(config: PipelineConfig, workspace: Path) -> None:
    """Refuse to begin with training where not even one checkpoint has room.

    Raises:
        StorageError: it says how much is needed, and where.
    """
    one, free = checkpoint_bytes(config), shutil.disk_usage(_existing(workspace)).free
    if one > free:
        raise StorageError(
            f"{workspace} has {large_bytes(free)} left, and a checkpoint of this model takes about {large_bytes(one)}; make room "
            "or choose another --workspace"
        )


def checkpoint_bytes(config: PipelineConfig) -> float:
    """Return the size of a checkpoint to go on from: weights and the optimizer's moments, in fp32."""
    training = config.training.model_copy(
        update={"optimizer": config.training.optimizer.model_copy(update={"offload": False})}
    )
    length = config.corpus.sequence_length_tokens
    whole = training_memory(config.model, training, Spread(), "fp32", config.parallel, length)
    return whole.weights + whole.optimizer


def _disk(config: PipelineConfig, workspace: Path) -> str | None:
    training, one = config.training, checkpoint_bytes(config)
    made = math.ceil(training.steps / training.checkpoint_every_steps)
    kept = min(made, training.keep_checkpoints) + 1  # and the one that is being written
    if training.keep_every_steps:
        kept += training.steps // training.keep_every_steps
    free = shutil.disk_usage(_existing(workspace)).free
    if one * kept <= free:
        return None
    return (
        f"checkpoints may take {large_bytes(one * kept)} ({kept} of {large_bytes(one)}), and {workspace} has "
        f"{large_bytes(free)} left: make room, choose another --workspace, or lower training.keep_checkpoints"
        + (" or raise training.keep_every_steps" if training.keep_every_steps else "")
    )


def _memory(config: PipelineConfig) -> str | None:
    accelerator = training_device(config)
    if not accelerator.memory_bytes:  # of nodes that are not known yet
        return None
    layout = settle_layout(config, accelerator)
    has, kind = accelerator.memory_bytes, accelerator.kind
    each = training_memory(
        config.model,
        config.training,
        spread_of(layout.degrees),
        layout.precision,
        config.parallel,
        config.corpus.sequence_length_tokens,
        has,
        kind,
    ).peak
    on_cpu = kind == "cpu"
    processes = layout.degrees.processes // config.training.nodes if on_cpu else 1
    needed = processes * (each + (_PROGRAM_BYTES if on_cpu else 0))
    if needed <= has:
        return None
    where = f"{processes} processes on this machine" if on_cpu else f"a device ({accelerator.name})"
    return (
        f"training may need {large_bytes(needed)} of memory in {where}, which has {large_bytes(has)}: lower "
        "training.micro_batch_sequences, set training.activation_checkpointing=full, or use more devices"
    )


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())
