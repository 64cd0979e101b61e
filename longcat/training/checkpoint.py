"""Checkpoints of a run in progress, in torch's distributed format, which any number of processes can read.

`step-00000100/` appears under its name only when every process has written its part, so the newest one is complete.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

_NAME = re.compile(r"step-(\d{8})")
MODEL = "model"
"""Key of the model's state dict in a checkpoint; torch writes each parameter as this key, a dot and its name."""


def save(directory: Path, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer], keep: int) -> Path:
    """Write the state after `step` steps and drop all but the newest `keep`; returns its directory. Collective."""
    final = directory / f"step-{step:08d}"
    write(directory / f".{final.name}", step, model, optimizers)
    if dist.get_rank() == 0:
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


def load(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    """Restore model and optimizer in place; returns the number of steps they have seen. Collective."""
    state = _state(model, optimizers, 0)
    dcp.state_dict_loader.load(state, checkpoint_id=path)
    set_state_dict(model, optimizers, model_state_dict=state[MODEL], optim_state_dict=state["optimizer"])
    return int(state["step"])


def _state(model: nn.Module, optimizers: list[torch.optim.Optimizer], step: int) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(model, optimizers)
    return {MODEL: model_state, "optimizer": optimizer_state, "step": torch.tensor(step)}
