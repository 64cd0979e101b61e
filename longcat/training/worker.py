"""A training process: `python -m longcat.training.worker JOB.json`, started by torchrun, one per rank.

It knows nothing of Prefect or MLflow. SIGTERM makes all ranks save a checkpoint after the present step and exit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist

from longcat.accelerator import Accelerator, choose
from longcat.artifact import write_json
from longcat.corpus.loader import Prefetcher
from longcat.costs.flops import parameters, training_flops_per_token
from longcat.disk import disk_errors
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.lease import check_lease
from longcat.parallel.mesh import ProcessMesh, end_process, join, leave
from longcat.processes.child import follow
from longcat.processes.failure import report_failure
from longcat.training import checkpoint, checkpoint_files
from longcat.training.balance import layer_metrics, load_metrics
from longcat.training.health import Verdict
from longcat.training.heartbeat import Heartbeat
from longcat.training.held_out import held_out_batch, write_sample
from longcat.training.job import RESULT, Job
from longcat.training.losses import active_losses
from longcat.training.metrics import MetricsFile
from longcat.training.recovery import Recoverable
from longcat.training.regions import CHECKPOINT, DATA, FINISH, FIRST_STEP, HELD_OUT, LOADING
from longcat.training.stragglers import Stragglers
from longcat.training.trainer import StepResult

LOAD_RECORDS = 200
"""Most records of every expert's load in a run of many steps."""


class Worker(Recoverable):
    """One training process: the loop over steps."""

    def __init__(self, job: Job, mesh: ProcessMesh, accelerator: Accelerator, heart: Heartbeat | None = None) -> None:
        super().__init__(job, mesh, accelerator, heart)
        self.stragglers = Stragglers(mesh)
        self.batches = Prefetcher(self.loader)
        self.auxiliary = active_losses(self.config)
        self.batch_tokens = self.config.training.global_batch_sequences * self.corpus.sequence_length
        self.sequence_length = job.sequence_length or self.corpus.sequence_length
        self.stop_asked = False
        signal.signal(signal.SIGTERM, self._ask_to_stop)

    def _ask_to_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stop_asked = True

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
        while True:
            if self._is_corrupt(done):
                with self.heart.region(LOADING):
                    done = self._return_to_clean(done)
                metrics, loads = self._records_after(done)
                self._begin_window(done)
            if done == training.steps:
                break
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

    def _records_after(self, done: int) -> tuple[MetricsFile, MetricsFile] | tuple[None, None]:
        """Open the files of records, without those of steps that are to be done again; in rank 0 only."""
        if self.mesh.rank:
            return None, None
        folder = CheckpointFolder(self.directory)
        return MetricsFile(folder.metrics, after_step=done), MetricsFile(folder.expert_load, after_step=done)

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

    def _save(self, done: int, keep_going: bool) -> float:
        """Save a checkpoint to resume from, and let the model write a sample; returns the seconds that training waited for it.

        The checkpoint after the last step is one like others: whoever is interrupted then has only to finish.

        Args:
            done: steps so far.
            keep_going: whether there is time; else the sample is left to whoever goes on.
        """
        check_lease()
        if keep_going:  # first, so that whoever goes on from the checkpoint has it
            write_sample(self.trainer, self.corpus, self.directory, done)
        if last := done == self.config.training.steps:
            self.trainer.settle_weights()
        seconds = self.saver.save(done, self.trainer.weights, self.trainer.optimizers, self._known_after(done))
        if last and not keep_going:
            self.saver.wait()
            write_sample(self.trainer, self.corpus, self.directory, done)
        return seconds

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
        """Make the checkpoint after the last step the final state, and write down that training is finished. Collective."""
        check_lease()
        if not checkpoint.gathered(steps in self._saved())[0]:  # all that there is of it lies in the faster folder
            self._save(steps, keep_going=True)
        last = checkpoint_files.folder_of(CheckpointFolder(self.directory).progress, steps)
        self.saver.wait()
        checkpoint.together((lambda: self._publish(last, steps)) if self.mesh.rank == 0 else None)
        dist.barrier()

    def _publish(self, last: Path, steps: int) -> None:
        checkpoint_files.give(last, CheckpointFolder(self.directory).state)
        facts = {
            "steps": steps,
            "tokens": steps * self.batch_tokens,
            "parameters": sum(parameters(self.config.model).values()),
            "layouts": [asdict(one) for one in self.layouts],
        }
        write_json(self.directory / RESULT, facts)
        self._record("end", step=steps)


def run(body: Callable[[Worker], None]) -> NoReturn:
    """Do a job's work in this process and end it; a failure is written down first.

    Args:
        body: the work, the same in every process.
    """
    follow()
    job = Job.read(Path(sys.argv[1]))
    rank = int(os.environ["RANK"])
    try:
        # the launcher of a single node may be another machine, too
        heart = Heartbeat(Path(job.directory), rank, several_machines=job.pipeline.training.launcher != "local")
        accelerator = choose(job.layout.accelerator)
        accelerator.compute_repeatably()
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
