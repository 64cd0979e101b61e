"""Checkpoints of a run in progress, in torch's distributed format, which any number of processes can read.

`step-00000100/` appears under its name only when every process has written its part, so the newest one is complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from longcat.artifact import write_json
from longcat.config import ModelConfig
from longcat.errors import ArtifactError

_NAME = re.compile(r"step-(\d{8})")
_LAYER = re.compile(r"model\.model\.layers\.(\d+)\.")
_HEALTH = "health.json"
MODEL = "model"
"""Key of the model's state dict in a checkpoint; torch writes each parameter as this key, a dot and its name."""


def save(
    directory: Path,
    step: int,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    keep: int,
    health: dict[str, Any] | None = None,
) -> Path:
    """Write the state after `step` steps and drop all but the newest `keep`; returns its directory. Collective.

    The state of `longcat.training.health.Health` is kept beside it.
    """
    final = directory / f"step-{step:08d}"
    write(directory / f".{final.name}", step, model, optimizers)
    if dist.get_rank() == 0:
        write_json(directory / f".{final.name}" / _HEALTH, health or {})
        if final.exists():
            shutil.rmtree(final)
        os.rename(directory / f".{final.name}", final)
        for old in [path for _, path in saved(directory)][:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    dist.barrier()
    return final


def write(path: Path, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Write the state to `path`, replacing what is there. Collective."""
    if dist.get_rank() == 0:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    dist.barrier()
    dcp.state_dict_saver.save(_state(model, optimizers, step), checkpoint_id=path)


def saved(directory: Path) -> list[tuple[int, Path]]:
    """List the complete checkpoints in `directory` as (step, path), oldest first."""
    complete = [(int(match[1]), path) for path in directory.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return sorted(complete)


def health_of(path: Path) -> dict[str, Any]:
    """Return what a checkpoint was saved with as `health`; nothing for one that has none."""
    file = path / _HEALTH
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def drop_after(directory: Path, step: int) -> None:
    """Drop the checkpoints of later steps. Collective."""
    dist.barrier()
    if dist.get_rank() == 0:
        for later, path in saved(directory):
            if later > step:
                shutil.rmtree(path)
    dist.barrier()


def load(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    """Restore model and optimizer in place; returns the number of steps they have seen. Collective.

    Raises:
        ArtifactError: it is of another model or optimizer; names what differs first.
    """
    state = _state(model, optimizers, 0)
    _agree(_fault(path, state, getattr(model, "config", None)))
    # those of the configuration: a process groups its own parameters only, which the file knows by the layout it was written in
    groups = state["optimizer"].pop("param_groups")
    dcp.state_dict_loader.load(state, checkpoint_id=path)
    state["optimizer"]["param_groups"] = groups
    set_state_dict(model, optimizers, model_state_dict=state[MODEL], optim_state_dict=state["optimizer"])
    return int(state["step"])


def _agree(fault: str | None) -> None:
    """Refuse in every process what one of them has found; a stage of a pipeline knows its own layers only. Collective."""
    found: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, fault)
    if faults := [of for of in found if of is not None]:
        raise ArtifactError(faults[0])


def _fault(path: Path, state: dict[str, Any], config: ModelConfig | None) -> str | None:
    """Find a tensor of this process that a checkpoint lacks or has in another shape, or layers behind the last one."""
    stored = FileSystemReader(path).read_metadata().state_dict_metadata
    for name, tensor in _tensors(state):
        found = stored.get(name)
        if found is None:
            return f"{path} is of another model or optimizer: it has no {name}"
        if isinstance(found, TensorStorageMetadata) and list(found.size) != list(tensor.shape):
            return f"{path} is of another model: {name} is {list(found.size)} there, not {list(tensor.shape)}"
    layers = {int(match[1]) for name in stored if (match := _LAYER.match(name))}
    if config is not None and layers and max(layers) >= config.num_layers:
        return f"{path} is of another model: it has {max(layers) + 1} layers, not model.num_layers={config.num_layers}"
    return None


def _tensors(state: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """List the tensors of a nested state under the names that torch writes them by: keys, joined by dots."""
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _tensors(value, f"{prefix}{key}.")
        elif isinstance(value, Tensor):
            yield f"{prefix}{key}", value


def _state(model: nn.Module, optimizers: list[torch.optim.Optimizer], step: int) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(model, optimizers)
    return {MODEL: model_state, "optimizer": optimizer_state, "step": torch.tensor(step)}
