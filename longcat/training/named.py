"""A checkpoint that a user names: its folder, or itself opened for inference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longcat.artifact import Workspace
    from longcat.inference.opening import OpenCheckpoint


def folder_named(checkpoint: str, workspace: Path) -> Path:
    """Find the folder of a checkpoint by what users name it by; see `open_named`.

    Raises:
        ConfigError: there is no such checkpoint, or several digests begin so.
    """
    from longcat.inference.opening import find_checkpoint

    return find_checkpoint(*_found(checkpoint, workspace))


def open_named(checkpoint: str, workspace: Path, accelerator: str, precision: str) -> OpenCheckpoint:
    """Open a checkpoint by what users name it by.

    Args:
        checkpoint: a folder, the first characters of a digest, or a state of a run (`longcat.training.given_state`).
        workspace: where digests are looked for; one that is not there is not made for this.
        accelerator: `auto`, `npu`, `cuda` or `cpu`.
        precision: `auto`, `fp32` or `bf16`.

    Raises:
        ConfigError: there is no such checkpoint, device or precision; see `longcat.inference.opening.open_checkpoint`.
        DataError: weights, tokenizer or template are unreadable.
    """
    from longcat.accelerator import choose
    from longcat.inference.opening import open_checkpoint, read_precision

    return open_checkpoint(*_found(checkpoint, workspace), choose(accelerator), read_precision(precision))


def _found(checkpoint: str, workspace: Path) -> tuple[str, Workspace | None]:
    from longcat.artifact import Workspace
    from longcat.training.given_state import state_as_checkpoint

    space = Workspace(workspace) if workspace.is_dir() else None
    return state_as_checkpoint(checkpoint, space), space
