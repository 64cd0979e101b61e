"""Saving checkpoints while training goes on: a step waits until its state is copied, not until it is on the disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.tensor import DTensor

from longcat.config import ModelConfig
from longcat.training import checkpoint
from longcat.training import checkpoint_files as files
from longcat.training.checkpoint_files import RunRecord
from longcat.training.checkpoint_writer import Digest
from longcat.training.local_tier import LocalTier


class HostCopy:
    """A copy of a state in the host's memory, which keeps its place from one copy to the next."""

    def __init__(self) -> None:
        self._state: dict[str, Any] = {}
        self._parts: dict[str, Tensor] = {}

    @torch.no_grad()
    def of(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a copy of a state; it holds until the next one.

        Args:
            state: tensors, in dictionaries of any depth.
        """
        parts = {name: _own_part(value) for name, value in checkpoint.tensors(state)}
        if {name: (of.shape, of.dtype) for name, of in parts.items()} == {
            name: (of.shape, of.dtype) for name, of in self._parts.items()
        }:
            for name, part in parts.items():
                self._parts[name].copy_(part)
        else:
            staged = DefaultStager(StagingOptions(False, False, False, False)).stage(state)
            assert isinstance(staged, dict)  # a future only for what is copied in the background
            self._state = staged
            self._parts = {name: _own_part(value) for name, value in checkpoint.tensors(staged)}
        return self._state


def _own_part(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


class Saver:
    """Saves checkpoints of a run in progress, one at a time. What is called of it is called in every process.

    The state is copied to the host's memory, where its place is kept for the next one. A thread writes the copy, and talks to
    the other processes' threads over a group of its own: one that training used would wait for writes, and could end in a
    deadlock. When all have written, rank 0 gives the checkpoint its name and drops older ones.

    Attributes:
        clean: steps of a state that is known to be right: the newest checkpoint up to it stays. None if nobody looks.
    """

    def __init__(
        self,
        directory: Path,
        group: dist.ProcessGroup,
        keep: int,
        every_steps: int = 0,
        asynchronous: bool = True,
        told: Callable[[int], None] = lambda step: None,
        local: Path | None = None,
        refused: Callable[[int, OSError], None] = lambda step, error: None,
    ) -> None:
        """Save to a directory.

        Args:
            directory: folder of the run's checkpoints.
            group: of all processes, for the host's memory, used by nothing else.
            keep: number of newest checkpoints that are kept.
            every_steps: those at its multiples are kept as well; 0 keeps none of them.
            asynchronous: whether training goes on while a checkpoint is written.
            told: called in rank 0 with the step of a checkpoint that is whole.
            local: faster folder, of the same name on each node, that checkpoints are written to first; see `LocalTier`.
            refused: called in rank 0 with the step of a checkpoint that this folder did not take.
        """
        self._directory, self._group = directory, group
        self._keep, self._every_steps, self._asynchronous = keep, every_steps, asynchronous
        self._told, self._refused = told, refused
        self.clean: int | None = None
        self.local = None if local is None else LocalTier(local, group)
        self._copy = HostCopy()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer], record: RunRecord) -> float:
        """Save the state after a step; returns the seconds that training waited. Collective.

        It waits for the checkpoint before, if that is still being written, and raises what was wrong with it; see `wait`.
        """
        began = time.perf_counter()
        self.wait()
        state = checkpoint.state_of(step, model, optimizers)
        config = getattr(model, "config", None)
        if self._asynchronous:
            state = self._copy.of(state)
        self._writing = self._thread.submit(self._write, step, state, config, record)
        if not self._asynchronous:
            self.wait()
        return time.perf_counter() - began

    def check(self) -> None:
        """Raise what was wrong with the last checkpoint, if that is known already; see `wait`."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk.

        Raises:
            OSError: of the disk, in every process.
            RuntimeError: some process could not write its part for another reason.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, step: int, state: dict[str, Any], config: ModelConfig | None, record: RunRecord) -> None:
        """Write a state; in the thread."""
        final, first = files.folder_of(self._directory, step), dist.get_rank() == 0
        digests = self._through_local(step, state, config, record, files.unfinished(final))
        if digests is None:
            digests = checkpoint.write_state(files.unfinished(final), state, config, self._group)

        def finish() -> None:
            files.commit(final, step, record, digests)
            files.thin_out(self._directory, self._keep, self._every_steps, self.clean)
            self._told(step)

        checkpoint.together(finish if first else None, self._group)

    def _through_local(
        self, step: int, state: dict[str, Any], config: ModelConfig | None, record: RunRecord, target: Path
    ) -> dict[str, Digest] | None:
        """Write a state to the faster folder and copy it; returns nothing if there is no such folder, or it is full or gone."""
        if self.local is None:
            return None
        try:
            digests = self.local.write(step, state, config, record)
        except OSError as error:
            if dist.get_rank() == 0:
                self._refused(step, error)
            return None
        self.local.copy(step, digests, target)
        return digests
