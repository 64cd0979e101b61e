"""A faster place for checkpoints before the shared one: a folder in memory, or on each node's own disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch.distributed as dist

from longcat.config import ModelConfig
from longcat.disk import copy_file, private_folder, remove
from longcat.training import checkpoint
from longcat.training import checkpoint_files as files
from longcat.training.checkpoint_files import RunRecord
from longcat.training.checkpoint_writer import Digest


class LocalTier:
    """The folder of a run on each node, with the newest checkpoint. What is called of it is called in every process.

    A node has the files that its own processes have written, so it is gone on from here only where one node has all of them.
    """

    def __init__(self, folder: Path, group: dist.ProcessGroup) -> None:
        """Use a folder.

        Args:
            folder: of the run, of the same name on each node.
            group: of all processes, for the host's memory.
        """
        self._folder, self._group = folder, group
        self._rank, self._processes = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def write(
        self, step: int, state: dict[str, Any], config: ModelConfig | None, record: RunRecord
    ) -> dict[str, Digest]:
        """Write the checkpoint after a step; returns the digests of the files of all processes. Collective.

        Raises:
            OSError: of a disk that refused it, in every process; nothing of it is left.
        """
        final = files.folder_of(self._folder, step)
        try:
            self._first(lambda: private_folder(self._folder))
            digests = checkpoint.write_state(files.unfinished(final), state, config, self._group, self._rank == 0)
            self._first(lambda: files.commit(final, step, record, digests))
        except OSError:
            if self._rank == 0:
                files.clear(self._folder)
            raise
        return digests

    def copy(self, step: int, digests: dict[str, Digest], target: Path) -> None:
        """Copy the files of processes to a folder that all nodes share, and drop older checkpoints here. Collective.

        Raises:
            OSError: of a disk that refused it, in every process.
        """
        source = files.folder_of(self._folder, step)
        checkpoint.together((lambda: files.make(target)) if dist.get_rank() == 0 else None, self._group)
        own = sorted(name for name in digests if (source / name).is_file())[self._rank :: self._processes]

        def copy_own() -> None:
            for name in own:
                copy_file(source / name, target / name)

        checkpoint.together(copy_own, self._group)
        self._first(lambda: files.thin_out(self._folder, 1))

    def newest_sound(self) -> Path | None:
        """Return the newest checkpoint here if every process finds all files of it as they were written. Collective."""
        self._first(lambda: files.clear(self._folder))
        here = [step for step, _ in files.saved(self._folder)]
        for step in reversed(checkpoint.gathered(here, self._group)[0]):
            path = files.folder_of(self._folder, step)
            faults = checkpoint.gathered(files.fault(path, self._rank, self._processes), self._group)
            if not any(faults):
                return path
        return None

    def drop_after(self, step: int) -> None:
        """Drop the checkpoints of later steps. Collective."""
        self._first(lambda: files.drop_after(self._folder, step))

    def remove(self) -> None:
        """Remove the folder, when a run is finished. Collective."""
        self._first(lambda: remove(self._folder))

    def _first(self, action: Any) -> None:
        """Do something in one process of each node."""
        checkpoint.together(action if self._rank == 0 else None, self._group)
