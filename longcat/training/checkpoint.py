"""The state of training in torch's distributed format, which any number of processes can read, whatever the layout.

`longcat.training.checkpoint_files` says where it lies while a run is in progress, `longcat.training.saving` when it is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from longcat.config import ModelConfig
from longcat.errors import ArtifactError, DataError
from longcat.interchange.state_dict_map import state_dict_map
from longcat.training import checkpoint_files as files
from longcat.training.checkpoint_reader import CheckpointReader
from longcat.training.checkpoint_writer import CheckpointWriter, Digest

_LAYER = re.compile(r"model\.model\.layers\.(\d+)\.")
MODEL, OPTIMIZER, RANDOM = "model", "optimizer", "random"
"""Keys of a checkpoint; torch writes each parameter as `MODEL`, a dot and its name."""


def write_state(
    path: Path,
    state: Mapping[str, Any],
    config: ModelConfig | None,
    group: dist.ProcessGroup | None = None,
    makes_folder: bool | None = None,
) -> dict[str, Digest]:
    """Write what `state_of` gave, or a copy of it, replacing what is there. Collective.

    Args:
        path: folder of the checkpoint.
        state: of this process.
        config: of the model, whose parameters are counted in what has been written.
        group: of all processes; the one that training uses, if none.
        makes_folder: whether this process makes the folder; that is rank 0, where nothing is said.

    Returns:
        The digests of the files of all processes, in all of them.

    Raises:
        OSError: of the process whose disk refused it.
        RuntimeError: some of the model has not been written.
    """
    makes_folder = dist.get_rank() == 0 if makes_folder is None else makes_folder
    together((lambda: files.make(path)) if makes_folder else None, group)
    writer = CheckpointWriter(path)
    try:
        metadata = dcp.state_dict_saver.save(dict(state), storage_writer=writer, process_group=group)
    except CheckpointException as error:
        raise _cause(error) from None
    if config is not None and (fault := miscounted(metadata, config)):
        raise RuntimeError(f"{path}: {fault}")
    return {name: digest for of in gathered(writer.digests, group) for name, digest in of.items()}


def state_of(step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Return all that a process writes: weights, balance state, moments and the states of its random generators.

    What optimizers are set to is left out: it is in the configuration.
    """
    state = _state(model, optimizers, step)
    del state[OPTIMIZER]["param_groups"]
    return state | {RANDOM: {f"rank-{dist.get_rank()}": torch.get_rng_state()}}


def load(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    """Restore model, optimizers and random generators in place; returns the number of steps they have seen. Collective.

    A process that was not there when the checkpoint was written keeps its random generator as it is.

    Raises:
        ArtifactError: it is of another model or optimizer, which names what differs first, or it cannot be read.
    """
    state = _state(model, optimizers, 0)
    _agree(_fault(path, state, getattr(model, "config", None)))
    # those of the configuration: a process groups its own parameters only
    groups = state[OPTIMIZER].pop("param_groups")
    reader, own = CheckpointReader(path), f"rank-{dist.get_rank()}"
    if f"{RANDOM}.{own}" in reader.read_metadata().state_dict_metadata:
        state[RANDOM] = {own: torch.get_rng_state()}
    try:
        dcp.state_dict_loader.load(state, storage_reader=reader)
    except CheckpointException as error:
        raise ArtifactError(f"cannot read {path}: {_cause(error)}") from None
    state[OPTIMIZER]["param_groups"] = groups
    set_state_dict(model, optimizers, model_state_dict=state[MODEL], optim_state_dict=state[OPTIMIZER])
    if RANDOM in state:
        torch.set_rng_state(state[RANDOM][own])
    return int(state["step"])


def first_sound(directory: Path, steps: Iterable[int]) -> tuple[Path | None, list[tuple[Path, str]]]:
    """Find the first of some checkpoints that is as it was written; damaged ones before it are set aside. Collective.

    Args:
        directory: folder of a run's checkpoints.
        steps: of the checkpoints, best first; those that rank 0 gives count.

    Returns:
        The checkpoint, none if there is none; and where each damaged one lies now, with what is wrong with it.
    """
    rank, processes = dist.get_rank(), dist.get_world_size()
    damaged: list[tuple[Path, str]] = []
    for step in gathered(list(steps))[0]:
        path = files.folder_of(directory, step)
        found = [of for of in gathered(files.fault(path, rank, processes)) if of is not None]
        if not found:
            return path, damaged
        aside = files.set_aside(path) if rank == 0 else None
        damaged.append((gathered(aside)[0], found[0]))
    return None, damaged


def miscounted(metadata: Metadata, config: ModelConfig) -> str | None:
    """Say which parameter of a model a checkpoint lacks, or has in another size, experts included; None if it has all."""
    numbers: dict[str, int] = {}
    for tensor in state_dict_map(config):
        if tensor.parameter is not None and not tensor.duplicate:
            numbers[tensor.parameter] = numbers.get(tensor.parameter, 0) + math.prod(tensor.shape)
    for name, expected in numbers.items():
        stored = metadata.state_dict_metadata.get(f"{MODEL}.{name}")
        found = math.prod(stored.size) if isinstance(stored, TensorStorageMetadata) else 0
        if found != expected:
            return f"{name} has {found:,} numbers there, not {expected:,}"
    return None


def together(action: Callable[[], object] | None, group: dist.ProcessGroup | None = None) -> None:
    """Do something, or nothing, in this process, and raise in all of them what it has raised in one. Collective."""
    failure: Exception | None = None
    if action is not None:
        try:
            action()
        except Exception as error:
            failure = error
    for found in gathered(failure, group):
        if found is not None:
            raise found


def gathered(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return what each process has given, in the order of ranks. Collective."""
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, value, group=group)
    return found


def _cause(error: CheckpointException) -> BaseException:
    """Return what has failed in some process; a disk's errors before others."""
    causes = [cause for cause, _ in error.failures.values()]
    return next((cause for cause in causes if isinstance(cause, OSError)), causes[0])


def _agree(fault: str | None) -> None:
    """Refuse in every process what one of them has found; a stage of a pipeline knows its own layers only. Collective."""
    if faults := [of for of in gathered(fault) if of is not None]:
        raise ArtifactError(faults[0])


def _fault(path: Path, state: dict[str, Any], config: ModelConfig | None) -> str | None:
    """Find a tensor of this process that a checkpoint lacks or has in another shape, or layers behind the last one."""
    try:
        metadata = CheckpointReader(path).read_metadata()
    except DataError as error:
        return str(error)
    stored = metadata.state_dict_metadata
    for name, tensor in tensors(state):
        found = stored.get(name)
        if found is None:
            return f"{path} is of another model or optimizer: it has no {name}"
        if isinstance(found, TensorStorageMetadata) and list(found.size) != list(tensor.shape):
            return f"{path} is of another model: {name} is {list(found.size)} there, not {list(tensor.shape)}"
    layers = {int(match[1]) for name in stored if (match := _LAYER.match(name))}
    if config is not None and layers and max(layers) >= config.num_layers:
        return f"{path} is of another model: it has {max(layers) + 1} layers, not model.num_layers={config.num_layers}"
    if config is not None and (fault := miscounted(metadata, config)):
        return f"{path} is of another model: {fault}"
    return None


def tensors(state: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """List the tensors of a nested state under the names that torch writes them by: keys, joined by dots."""
    for key, value in state.items():
        if isinstance(value, dict):
            yield from tensors(value, f"{prefix}{key}.")
        elif isinstance(value, Tensor):
            yield f"{prefix}{key}", value


def _state(model: nn.Module, optimizers: list[torch.optim.Optimizer], step: int) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(model, optimizers)
    return {MODEL: model_state, OPTIMIZER: optimizer_state, "step": torch.tensor(step)}
