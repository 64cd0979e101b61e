"""A training process: `python -m longcat.training.worker JOB.json`, started by torchrun, one per rank.

It knows nothing of Prefect or MLflow. SIGTERM makes all ranks save a checkpoint after the present step and exit.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from longcat.accelerator import Accelerator, choose
from longcat.artifact import write_json
from longcat.corpus.loader import Loader, Prefetcher
from longcat.corpus.shards import TokenCorpus
from longcat.costs.flops import parameters, training_flops_per_token
from longcat.disk import disk_errors
from longcat.errors import CorruptionError
from longcat.interchange.checkpoint_facts import LayoutSince
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.lease import check_lease
from longcat.parallel.mesh import ProcessMesh, end_process, join, leave
from longcat.processes.child import die_with_parent
from longcat.processes.failure import report_failure
from longcat.training import checkpoint, checkpoint_files
from longcat.training.balance import layer_metrics, load_metrics
from longcat.training.checkpoint_files import RunRecord
from longcat.training.corruption import CorruptionCheck, Finding
from longcat.training.health import Health, Verdict
from longcat.training.heartbeat import Heartbeat
from longcat.training.held_out import held_out_batch, write_sample
from longcat.training.job import RESULT, Job
from longcat.training.layouts import going_on, layout_since
from longcat.training.life import EventKind, record_event
from longcat.training.losses import active_losses
from longcat.training.metrics import MetricsFile
from longcat.training.regions import CHECK, CHECKPOINT, DATA, FINISH, FIRST_STEP, HELD_OUT, LOADING
from longcat.training.saving import Saver
from longcat.training.stragglers import Stragglers
from longcat.training.trainer import StepResult, Trainer

LOAD_RECORDS = 200
"""Most records of every expert's load in a run of many steps."""


class Worker:
    """One training process: model, data and the loop over steps."""

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
        self.stragglers = Stragglers(mesh)
        self.corpus = TokenCorpus.open(Path(job.tokens))
        training = self.config.training
        self.loader = Loader(
            self.corpus.train,
            self.config.seed,
            training.global_batch_sequences,
            rank=mesh.batch_rank,
            world=mesh.batch_world,
        )
        self.batches = Prefetcher(self.loader)
        self.auxiliary = active_losses(self.config)
        self.batch_tokens = training.global_batch_sequences * self.corpus.sequence_length
        self.sequence_length = job.sequence_length or self.corpus.sequence_length
        self.layouts: tuple[LayoutSince, ...] = ()
        """Layouts that the model has been trained in, this one included."""
        self._clean, self._loaded_again_at = 0, -1
        self.paused_seconds = 0.0
        """Time since the last record of throughput that was not spent on training."""
        self.stop_asked = False
        signal.signal(signal.SIGTERM, self._ask_to_stop)

    def _ask_to_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stop_asked = True

    def _new_trainer(self) -> Trainer:
        trainer = Trainer(self.config, self.mesh, self.accelerator, self.job.layout.precision)
        self.heart.follow(trainer)
        self._fresh = True
        self.corruption = CorruptionCheck(trainer, self.mesh) if self.config.training.check_every_steps else None
        return trainer

    def step(self, step: int) -> StepResult:
        """Train on the batch of a step."""
        self.heart.begin_step(step + 1)
        with self.heart.region(FIRST_STEP) if self._fresh else nullcontext():
            first, self._fresh = self._fresh, False
            with self.heart.region(DATA):
                batch = self.batches.batch(self.health.position(step))
                if self.sequence_length != self.corpus.sequence_length:
                    batch = batch.reshape(self.sequence_length)
            began, waited = time.perf_counter(), self.heart.waited_s
            result = self.trainer.step(step, batch, self.stop_asked)
            if not first:
                self.stragglers.note(time.perf_counter() - began - (self.heart.waited_s - waited))
        return result

    def pretrain(self) -> None:
        """Train to the last step, from the newest checkpoint if there is one, and write the final state."""
        training, stalled = self.config.training, None
        self.saver = self._open_saver()
        done = self._resume()
        metrics, loads = self._records_after(done)
        held_out = held_out_batch(
            self.corpus.held_out, training.held_out_sequences, self.mesh.batch_rank, self.mesh.batch_world
        )
        self.heart.started()
        self._record("start", step=done, attempt=self.job.attempt, processes=self.mesh.processes)
        self._begin_window(done)
        save_due = False
        self._note_clean(done)
        while done < training.steps:
            if self._is_corrupt(done):
                with self.heart.region(LOADING):
                    done = self._return_to_clean(done)
                metrics, loads = self._records_after(done)
                self._begin_window(done)
            step = done
            result = self.step(step)
            verdict = self._judged(step, result)
            if verdict == "rewind":
                with self.heart.region(LOADING):
                    done = self._rewind(step + 1)
                metrics, loads = self._records_after(done)
                self._begin_window(done)
            if verdict in ("rewind", "again"):
                if result.stop:
                    self._leave(done)
                    return
                continue
            done, last = step + 1, step + 1 == training.steps
            values = self._metrics(result, step)
            if logged := done % training.log_every_steps == 0 or last:
                self.accelerator.synchronize()
                began, first = self._window
                seconds = time.perf_counter() - began - self.paused_seconds
                experts = values["moe/ffn_experts_per_token"]
                values |= self._throughput((done - first) * self.batch_tokens / seconds, experts)
                values |= self._step_times(done)
                values |= layer_metrics(
                    result.expert_load, result.router_entropy, result.router_top_probability, self.config.model
                )
            if training.held_out_every_steps and (done % training.held_out_every_steps == 0 or last):
                with self._paused(), self.heart.region(HELD_OUT):
                    values["held_out/loss"] = self.trainer.held_out_loss(step, held_out)
            if stalled is not None:  # of the checkpoint after the step before
                values["perf/checkpoint_stall_seconds"], stalled = stalled, None
            if metrics:
                metrics.append({"step": done, "time": time.time(), "attempt": self.job.attempt, **values})
            if loads and done % max(1, training.steps // LOAD_RECORDS) == 0:
                loads.append({"step": done, "slots": result.expert_load.int().tolist()})
            save_due |= done % training.checkpoint_every_steps == 0
            # weights that give no finite loss are not worth a checkpoint
            if result.stop or last or (save_due and verdict != "skipped"):
                for records in filter(None, (metrics, loads)):
                    records.sync()
                with self._paused(), self.heart.region(CHECKPOINT):
                    stalled = self._save(done, keep_going=not result.stop)
                save_due = False
            self.saver.check()
            if result.stop and not last:
                self._leave(done)
                return
            if logged:
                self._begin_window(done)
        with self.heart.region(FINISH):
            self.saver.wait()
            self._finish(done)
            if self.saver.local is not None:
                self.saver.local.remove()

    def _begin_window(self, done: int) -> None:
        """Begin to measure the throughput of the steps after these."""
        self._window, self.paused_seconds = (time.perf_counter(), done), 0.0

    def _leave(self, done: int) -> None:
        """Wait for what is being saved, before the last step, as somebody has asked to."""
        with self.heart.region(CHECKPOINT):
            self.saver.wait()
        self._record("stop", step=done)

    def _open_saver(self) -> Saver:
        training = self.config.training
        return Saver(
            CheckpointFolder(self.directory).progress,
            self.mesh.open_on_host("checkpoints", training.checkpoint_timeout_s),
            training.keep_checkpoints,
            training.keep_every_steps,
            training.asynchronous_checkpoints,
            told=lambda step: record_event(self.directory, "save", step=step),
            local=Path(training.checkpoint_local).expanduser() / self.job.run if training.checkpoint_local else None,
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
        self.health.restore(record.health)
        now = layout_since(self.config, self.job.layout, self.accelerator.name, done)
        self.layouts = going_on(record.layouts, now)
        if newest is not None and done % self.config.training.checkpoint_every_steps == 0:
            write_sample(self.trainer, self.corpus, self.directory, done)  # one that was to leave had no time for it
        return done

    @property
    def _first_state(self) -> Path | None:
        """Where the state lies that the run began with; none for the weights that the seed gives."""
        return None if self.job.start_from is None else Path(self.job.start_from)

    def _first_sound(self, steps: Iterable[int]) -> Path | None:
        """Return the first of some checkpoints that is as it was written, and tell of those that are not. Collective."""
        found, damaged = checkpoint.first_sound(CheckpointFolder(self.directory).progress, steps)
        for aside, fault in damaged:
            instead = "the start" if found is None else found.name
            self._record("fallback", checkpoint=aside.name, because=fault, instead=instead)
        return found

    def _records_after(self, done: int) -> tuple[MetricsFile, MetricsFile] | tuple[None, None]:
        """Open the files of records, without those of steps that are to be done again; in rank 0 only."""
        if self.mesh.rank:
            return None, None
        folder = CheckpointFolder(self.directory)
        return MetricsFile(folder.metrics, after_step=done), MetricsFile(folder.expert_load, after_step=done)

    def _record(self, kind: EventKind, **facts: Any) -> None:
        if self.mesh.rank == 0:
            record_event(self.directory, kind, **facts)

    def _judged(self, step: int, result: StepResult) -> Verdict:
        """Judge the step that was done, and write down what is wrong with it."""
        batch, limit = self.health.position(step), self.health.limit()
        verdict = self.health.judge(step + 1, result.loss, result.skipped)
        facts = {"step": step + 1, "batch": batch, "loss": result.loss, "gradient_norm": result.gradient_norm}
        if result.skipped:
            self._record("skip", **facts, in_a_row=self.health.skipped_in_a_row)
        elif verdict != "good":
            self._record("spike", **facts, limit=limit)
        return verdict

    def _step_times(self, step: int) -> dict[str, float]:
        """Compare the step times of all processes, and write down who has become slow. Collective."""
        figures, slow = self.stragglers.compare()
        for one in slow:
            self._record("straggler", step=step, **one._asdict())
        return figures

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
        self._drop_after(done)
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

        Raises:
            CorruptionError: what was wrong is still so when it is done again.
        """
        if self.corruption is None or done == 0 or done % self.config.training.check_every_steps:
            return False
        with self._paused(), self.heart.region(CHECK):
            found = self._look_for_corruption(self.corruption, done)
            held = any(of.how == "copies" for of in found)
            if found and not held:
                found = self._look_for_corruption(self.corruption, done)
        if found and (not held or self._loaded_again_at == done):
            if held:  # whoever is started again would give the wrong bits to all copies
                self._drop_after(self._clean)
            raise CorruptionError(f"silent corruption before step {done + 1}: {found[0]}")
        if found:
            self._loaded_again_at = done
            return True
        self._note_clean(done)
        return False

    def _note_clean(self, done: int) -> None:
        """Note that the copies of what is held are equal after so many steps."""
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
        """Go back from a step to the newest state whose copies are known to be equal; returns its steps. Collective.

        That is the one that the run began with while there is no such checkpoint: a later one may hold the wrong bits, and
        gives them to all copies when it is loaded. Only where all of those are damaged a later one has to do.
        """
        there = self._saved()
        clean = [step for step in there if step <= self._clean]
        later = [step for step in there if step > self._clean] if clean else []
        done, state = self._restore([*reversed(clean), *later])
        self.health.restore(state)
        self._record("rewind", step=step, to=done, batches=[])
        return done

    def _save(self, done: int, keep_going: bool) -> float | None:
        """Save a checkpoint to resume from, except after the last step, and let the model write a sample.

        Returns:
            The seconds that training waited for the checkpoint, if there is one.
        """
        check_lease()
        last = done == self.config.training.steps
        if keep_going or last:  # first, so that whoever goes on from the checkpoint has it
            write_sample(self.trainer, self.corpus, self.directory, done)
        if last:
            return None
        return self.saver.save(done, self.trainer.weights, self.trainer.optimizers, self._known_after(done))

    def _known_after(self, done: int) -> RunRecord:
        """Return what the run knows besides weights after a step."""
        return RunRecord(self.health.position(done), self.health.state(), self.layouts, self.job.run)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Keep the time of the block out of the measured throughput."""
        self.accelerator.synchronize()
        began = time.perf_counter()
        yield
        self.accelerator.synchronize()
        self.paused_seconds += time.perf_counter() - began

    def _metrics(self, result: StepResult, step: int) -> dict[str, float]:
        return {
            "train/loss": result.loss,
            **{f"train/{name}_loss": result.auxiliary[name] for name in self.auxiliary},
            "train/gradient_norm": result.gradient_norm,
            "train/learning_rate": result.learning_rate,
            "train/skipped": float(result.skipped),
            "train/skipped_steps": float(self.health.skipped),
            "train/passed_over_batches": float(self.health.passed),
            "train/tokens": float((step + 1) * self.batch_tokens),
            "perf/data_wait_seconds": self.batches.waited,
            "train/epoch": float(self.loader.epoch(self.health.position(step))),
            **load_metrics(result.expert_load, self.config.model),
        }

    def _throughput(self, tokens_per_second: float, ffn_experts: float) -> dict[str, float]:
        flops = training_flops_per_token(self.config.model, self.corpus.sequence_length, ffn_experts)
        achieved = tokens_per_second * sum(flops.values())
        figures = {
            "perf/tokens_per_second": tokens_per_second,
            "perf/step_seconds": self.batch_tokens / tokens_per_second,
            "perf/tflops_per_device": achieved / self.mesh.processes / 1e12,
            "perf/peak_memory_gb": self._peak_memory_bytes() / 1e9,
        }
        if self.job.peak_flops:
            figures["perf/mfu"] = achieved / self.job.peak_flops
        return figures

    def _peak_memory_bytes(self) -> int:
        """Return the peak memory of the process that has needed most. Collective."""
        peak = torch.tensor(self.accelerator.peak_memory_bytes(), device=self.mesh.device)
        dist.all_reduce(peak, op=dist.ReduceOp.MAX)
        return int(peak)

    def _finish(self, steps: int) -> None:
        check_lease()
        self.trainer.settle_weights()
        checkpoint.write(CheckpointFolder(self.directory).state, steps, self.trainer.weights, self.trainer.optimizers)
        if self.mesh.rank == 0:
            self._known_after(steps).write(CheckpointFolder(self.directory).state)
            facts = {
                "steps": steps,
                "tokens": steps * self.batch_tokens,
                "parameters": sum(parameters(self.config.model).values()),
                "layouts": [asdict(one) for one in self.layouts],
            }
            write_json(self.directory / RESULT, facts)
        self._record("end", step=steps)
        dist.barrier()


def run(body: Callable[[Worker], None]) -> NoReturn:
    """Do a job's work in this process and end it; a failure is written down first.

    Args:
        body: the work, the same in every process.
    """
    die_with_parent(signal.SIGKILL)
    job = Job.read(Path(sys.argv[1]))
    rank = int(os.environ["RANK"])
    # the launcher of a single node may be another machine, too
    heart = Heartbeat(Path(job.directory), rank, several_machines=job.pipeline.training.launcher != "local")
    try:
        accelerator = choose(job.layout.accelerator)
        mesh = join(accelerator, job.layout.degrees, job.pipeline.training.collective_timeout_s)
        with disk_errors(Path(job.directory)), heart.collectives(mesh, job.pipeline.training.compile):
            body(Worker(job, mesh, accelerator, heart))
    except BaseException as error:  # after an interrupt, too, the interpreter must not take this process apart
        code = report_failure(Path(job.directory), rank, error)
        end_process(code)  # without `leave`: it would wait for the other ranks in a collective that will never end
    try:
        leave()
    except Exception:  # the work is done
        with contextlib.suppress(OSError):
            traceback.print_exc()
    end_process()


if __name__ == "__main__":
    run(Worker.pretrain)
