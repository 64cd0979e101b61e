"""What a training process holds, and the earlier states that it goes back to: after an end, bad steps, or wrong bits."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from longcat.accelerator import Accelerator
from longcat.corpus.loader import Loader
from longcat.corpus.shards import TokenCorpus
from longcat.errors import CorruptionError
from longcat.interchange.checkpoint_facts import LayoutSince
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.parallel.mesh import ProcessMesh
from longcat.training import checkpoint, checkpoint_files
from longcat.training.checkpoint_files import RunRecord
from longcat.training.corruption import CorruptionCheck, Finding
from longcat.training.given_weights import load_weights
from longcat.training.health import Health
from longcat.training.heartbeat import Heartbeat
from longcat.training.held_out import write_sample
from longcat.training.job import Job
from longcat.training.layouts import going_on, layout_since
from longcat.training.life import EventKind, record_event
from longcat.training.regions import CHECK
from longcat.training.saving import Saver
from longcat.training.trainer import Trainer


class Recoverable:
    """Model, data and checkpoints of one training process. What goes back is called in every process."""

    saver: Saver
    """Of the checkpoints of `pretrain`."""

    def __init__(self, job: Job, mesh: ProcessMesh, accelerator: Accelerator, heart: Heartbeat | None = None) -> None:
        self.job, self.mesh, self.accelerator = job, mesh, accelerator
        self.config = job.pipeline
        self.directory = Path(job.directory)
        self.heart = heart or Heartbeat(self.directory, mesh.rank)
        torch.manual_seed(self.config.seed + mesh.rank)  # torch itself begins with another one in every process
        self.trainer = self._new_trainer()
        self.health = Health(self.config.training)
        self.corpus = TokenCorpus.open(Path(job.tokens)).learning_after(self.config.training.answers_after)
        self.loader = Loader(
            self.corpus.train,
            self.config.seed,
            self.config.training.global_batch_sequences,
            rank=mesh.batch_rank,
            world=mesh.batch_world,
        )
        self.layouts: tuple[LayoutSince, ...] = ()
        """Layouts that the model has been trained in, this one included."""
        self._clean, self._loaded_again_at = 0, -1
        self.paused_seconds = 0.0
        """Time since the last record of throughput that was not spent on training."""

    def _new_trainer(self) -> Trainer:
        trainer = Trainer(self.config, self.mesh, self.accelerator, self.job.layout.precision)
        self.heart.follow(trainer)
        self._fresh = True
        searches, repeats_bits = self.config.training.check_every_steps > 0, self.accelerator.repeats_bits
        self.corruption = CorruptionCheck(trainer, self.mesh, repeats_bits) if searches else None
        return trainer

    def _open_saver(self) -> Saver:
        training = self.config.training
        return Saver(
            CheckpointFolder(self.directory).progress,
            self.mesh.open_on_host("checkpoints", training.checkpoint_timeout_s),
            training.keep_checkpoints,
            training.keep_every_steps,
            training.asynchronous_checkpoints,
            told=lambda step: record_event(self.directory, "save", step=step),
            local=self.job.local_folder,
            refused=self._tell_of_local,
        )

    def _tell_of_local(self, step: int, error: OSError) -> None:
        """Write down that the faster folder did not take a checkpoint."""
        local = self.config.training.checkpoint_local
        self._record(
            "fallback", checkpoint=f"step {step}", because=f"training.checkpoint_local={local}: {error.strerror}"
        )

    def _resume(self) -> int:
        """Go on from the newest checkpoint that is as it was written, or from a finished one; returns its steps. Collective."""
        states = CheckpointFolder(self.directory).progress
        if self.mesh.rank == 0:
            checkpoint_files.clear(states)
        newest = self._first_sound(reversed([step for step, _ in checkpoint_files.saved(states)]))
        local = None if self.saver.local is None else self.saver.local.newest_sound()
        if local is not None and (newest is None or local.name >= newest.name):
            newest = local
        start, done, record = newest or self._first_state, 0, RunRecord()
        if start is not None:
            record = RunRecord.read(start)
            if start == newest:
                checkpoint_files.check_run(start, record, self.job.run)
            done = checkpoint.load(start, self.trainer.weights, self.trainer.optimizers)
        else:
            self._begin()
        self.health.restore(record.health)
        self._note_clean(done if newest is None else min(record.clean, done))
        finished = done == self.config.training.steps
        now = layout_since(self.config, self.job.layout, self.accelerator.name, done)
        self.layouts = record.layouts if finished else going_on(record.layouts, now)
        if newest is not None and (finished or done % self.config.training.checkpoint_every_steps == 0):
            write_sample(self.trainer, self.corpus, self.directory, done)  # one that was to leave had no time for it
        return done

    def _begin(self) -> None:
        """Give the trainer, before the first step, the weights and moments of another run if it is to have them. Collective."""
        if self.job.moments is not None:
            checkpoint.load(Path(self.job.moments), self.trainer.weights, self.trainer.optimizers)
        elif self.job.weights is not None:
            load_weights(Path(self.job.weights), self.trainer.weights)

    @property
    def _first_state(self) -> Path | None:
        """Where the state lies that the run goes on from; none for a run that begins with its first step."""
        return None if self.job.start_from is None else Path(self.job.start_from)

    def _first_sound(self, steps: Iterable[int]) -> Path | None:
        """Return the first of some checkpoints that is as it was written, and tell of those that are not. Collective."""
        found, damaged = checkpoint.first_sound(CheckpointFolder(self.directory).progress, steps)
        for aside, fault in damaged:
            instead = "the start" if found is None else found.name
            self._record("fallback", checkpoint=aside.name, because=fault, instead=instead)
        return found

    def _record(self, kind: EventKind, **facts: Any) -> None:
        if self.mesh.rank == 0:
            record_event(self.directory, kind, **facts)

    def _rewind(self, step: int) -> int:
        """Go back from a step, from 1, to the last state that is known to be good; returns its steps. Collective.

        It is that of a checkpoint that a good step has been made from, or else of the oldest one that is there. Without any
        it is the state that the run began with.
        """
        there = self._saved()
        good = [step for step in there if step < self.health.accepted]
        done, state = self._restore([*reversed(good), *(step for step in there if step not in good)])
        batches = self.health.rewound(step, done, state)
        self._record("rewind", step=step, to=done, batches=list(batches))
        return done

    def _saved(self) -> list[int]:
        """Return the steps of the checkpoints of this run, the one that is being written included. Collective."""
        self.saver.wait()
        return [step for step, _ in checkpoint_files.saved(CheckpointFolder(self.directory).progress)]

    def _restore(self, steps: Iterable[int]) -> tuple[int, dict[str, Any]]:
        """Load the first sound one of some checkpoints, or the state that the run began with. Collective.

        Returns:
            Its steps, and the state of the health at it. Later checkpoints are dropped.
        """
        if path := self._first_sound(steps) or self._first_state:
            state = RunRecord.read(path).health
            done = checkpoint.load(path, self.trainer.weights, self.trainer.optimizers)
        else:
            done, state = 0, {}
            del self.trainer, self.corruption
            gc.collect()  # before another one takes as much memory
            self.trainer = self._new_trainer()
            self._begin()
        self._drop_after(done)
        self._note_clean(min(self._clean, done))
        return done, state

    def _drop_after(self, done: int) -> None:
        """Drop the checkpoints of later steps. Collective."""
        self.saver.wait()
        states = CheckpointFolder(self.directory).progress
        checkpoint.together((lambda: checkpoint_files.drop_after(states, done)) if self.mesh.rank == 0 else None)
        if self.saver.local is not None:
            self.saver.local.drop_after(done)

    def _is_corrupt(self, done: int) -> bool:
        """Look for silent corruption if it is time; whether what is held is wrong, so that it has to be loaded again. Collective.

        It is time after every `training.check_every_steps` and after the last step, so that no step goes unsearched.

        Raises:
            CorruptionError: what was wrong is still so when it is done again. Checkpoints since the last search are dropped.
        """
        training = self.config.training
        if self.corruption is None or done == 0 or (done % training.check_every_steps and done != training.steps):
            return False
        with self._paused(), self.heart.region(CHECK):
            found = self._look_for_corruption(self.corruption, done)
            held = any(of.how == "copies" for of in found)
            if once := bool(found) and not held:
                found = self._look_for_corruption(self.corruption, done)
        if found and (not held or self._loaded_again_at == done):
            self._drop_after(self._clean)  # whoever is started again would give the wrong bits to all copies
            when = f"before step {done + 1}" if done < training.steps else "after the last step"
            raise CorruptionError(f"silent corruption {when}: {found[0]}")
        if found:
            self._loaded_again_at = done
            return True
        if not once:  # else what was computed since the last search may be wrong, too
            self._note_clean(done)
        return False

    def _note_clean(self, done: int) -> None:
        """Note that nothing was found wrong after so many steps."""
        self._clean = done
        if self.corruption is not None:
            self.saver.clean = done

    def _look_for_corruption(self, check: CorruptionCheck, done: int) -> list[Finding]:
        position, training = self.health.position(done), self.config.training
        theirs = None
        if check.neighbour is not None:
            place, world = self.mesh.degrees.batch_rank(check.neighbour), self.mesh.batch_world
            sequences = training.global_batch_sequences
            theirs = Loader(self.corpus.train, self.config.seed, sequences, place, world).batch(position)
        found = check.check(done, self.loader.batch(position), theirs)
        for of in found:
            self._record("corruption", step=done + 1, **asdict(of), message=str(of))
        return found

    def _return_to_clean(self, step: int) -> int:
        """Go back from a step to the newest state in which nothing was found wrong; returns its steps. Collective.

        That is the one that the run began with while there is no such checkpoint: a later one may hold the wrong bits, and
        gives them to all copies when it is loaded. Only where all of those are damaged a later one has to do, but for that
        of the step itself.
        """
        there = self._saved()
        clean = [step for step in there if step <= self._clean]
        later = [of for of in there if self._clean < of < step] if clean else []
        done, state = self._restore([*reversed(clean), *later])
        self.health.restore(state)
        self._record("rewind", step=step, to=done, batches=[])
        return done

    def _known_after(self, done: int) -> RunRecord:
        """Return what the run knows besides weights after a step."""
        clean = done if self.corruption is None else self._clean
        return RunRecord(self.health.position(done), self.health.state(), self.layouts, self.job.run, clean)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Keep the time of the block out of the measured throughput."""
        self.accelerator.synchronize()
        began = time.perf_counter()
        yield
        self.accelerator.synchronize()
        self.paused_seconds += time.perf_counter() - began
