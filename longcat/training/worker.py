"""A training process: `python -m longcat.training.worker JOB.json`, started by torchrun, one per rank.

It knows nothing of Prefect or MLflow. SIGTERM makes all ranks save a checkpoint after the present step and exit.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist

from longcat.accelerator import Accelerator, choose
from longcat.artifact import disk_errors, write_json
from longcat.corpus.loader import Loader, Prefetcher
from longcat.corpus.shards import TokenCorpus
from longcat.costs.flops import parameters, training_flops_per_token
from longcat.errors import LongcatError
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.parallel.mesh import ProcessMesh, end_process, join, leave
from longcat.processes.child import die_with_parent
from longcat.redaction import redact_error
from longcat.training import checkpoint
from longcat.training.balance import layer_metrics, load_metrics
from longcat.training.held_out import held_out_batch, write_sample
from longcat.training.job import RESULT, Job
from longcat.training.losses import active_losses
from longcat.training.metrics import MetricsFile
from longcat.training.regions import DATA
from longcat.training.trainer import StepResult, Trainer

LOAD_RECORDS = 200
"""Most records of every expert's load in a run of many steps."""


class Worker:
    """One training process: model, data and the loop over steps."""

    def __init__(self, job: Job, mesh: ProcessMesh, accelerator: Accelerator) -> None:
        self.job, self.mesh, self.accelerator = job, mesh, accelerator
        self.config = job.pipeline
        self.directory = Path(job.directory)
        self.trainer = Trainer(self.config, mesh, accelerator, job.layout.precision)
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
        self.paused_seconds = 0.0
        """Time since the last record of throughput that was not spent on training."""
        self.stop_asked = False
        signal.signal(signal.SIGTERM, self._ask_to_stop)

    def _ask_to_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stop_asked = True

    def step(self, step: int) -> StepResult:
        """Train on the batch of a step."""
        with torch.profiler.record_function(DATA):
            batch = self.batches.batch(step)
            if self.sequence_length != self.corpus.sequence_length:
                batch = batch.reshape(self.sequence_length)
        return self.trainer.step(step, batch, self.stop_asked)

    def pretrain(self) -> None:
        """Train to the last step, from the newest checkpoint if there is one, and write the final state."""
        folder = CheckpointFolder(self.directory)
        training, done = self.config.training, 0
        if newest := checkpoint.saved(folder.progress):
            done = checkpoint.load(newest[-1][1], self.trainer.weights, self.trainer.optimizers)
            write_sample(self.trainer, self.corpus, self.directory, done)  # the run may have ended before it
        metrics, loads = (
            (MetricsFile(path, after_step=done) for path in (folder.metrics, folder.expert_load))
            if self.mesh.rank == 0
            else (None, None)
        )
        held_out = held_out_batch(
            self.corpus.held_out, training.held_out_sequences, self.mesh.batch_rank, self.mesh.batch_world
        )
        window_began, window_step, ffn_experts = time.perf_counter(), done, 0.0
        for step in range(done, training.steps):
            result = self.step(step)
            done, last = step + 1, step + 1 == training.steps
            values = self._metrics(result, step)
            ffn_experts = values["moe/ffn_experts_per_token"]
            if logged := done % training.log_every_steps == 0 or last:
                self.accelerator.synchronize()
                seconds = time.perf_counter() - window_began - self.paused_seconds
                values |= self._throughput((done - window_step) * self.batch_tokens / seconds, ffn_experts)
                values |= layer_metrics(
                    result.expert_load, result.router_entropy, result.router_top_probability, self.config.model
                )
            if training.held_out_every_steps and (done % training.held_out_every_steps == 0 or last):
                with self._paused():
                    values["held_out/loss"] = self.trainer.held_out_loss(step, held_out)
            if metrics:
                metrics.append({"step": done, "time": time.time(), "attempt": self.job.attempt, **values})
            if loads and done % max(1, training.steps // LOAD_RECORDS) == 0:
                loads.append({"step": done, "slots": result.expert_load.int().tolist()})
            if result.stop or done % training.checkpoint_every_steps == 0 or last:
                with self._paused():
                    self._save(done, keep_going=not result.stop)
            if result.stop and not last:
                return
            if logged:
                window_began, window_step, self.paused_seconds = time.perf_counter(), done, 0.0
        self._finish(done, ffn_experts)

    def _save(self, done: int, keep_going: bool) -> None:
        """Save a checkpoint to resume from, except after the last step, and let the model write a sample."""
        training, states = self.config.training, CheckpointFolder(self.directory).progress
        if done < training.steps:
            checkpoint.save(states, done, self.trainer.weights, self.trainer.optimizers, training.keep_checkpoints)
        if keep_going or done == training.steps:
            write_sample(self.trainer, self.corpus, self.directory, done)

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
            "train/tokens": float((step + 1) * self.batch_tokens),
            "perf/data_wait_seconds": self.batches.waited,
            "train/epoch": float(self.loader.epoch(step)),
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

    def _finish(self, steps: int, ffn_experts: float) -> None:
        self.trainer.settle_weights()
        checkpoint.write(CheckpointFolder(self.directory).state, steps, self.trainer.weights, self.trainer.optimizers)
        if self.mesh.rank == 0:
            facts = {
                "steps": steps,
                "tokens": steps * self.batch_tokens,
                "parameters": sum(parameters(self.config.model).values()),
                "ffn_experts_per_token": ffn_experts,
            }
            write_json(self.directory / RESULT, facts)
        dist.barrier()


def run(body: Callable[[Worker], None]) -> NoReturn:
    """Do a job's work in this process and end it; a failure is written down first.

    Args:
        body: the work, the same in every process.
    """
    die_with_parent(signal.SIGKILL)
    job = Job.read(Path(sys.argv[1]))
    rank = int(os.environ["RANK"])
    try:
        accelerator = choose(job.layout.accelerator)
        mesh = join(accelerator, job.layout.degrees, job.pipeline.training.collective_timeout_s)
        with disk_errors(Path(job.directory)):
            body(Worker(job, mesh, accelerator))
        leave()
    except Exception as error:
        redact_error(error)
        report = {
            "time": time.time(),
            "rank": rank,
            "type": type(error).__name__,
            "expected": isinstance(error, LongcatError),
            "message": str(error),
            "traceback": traceback.format_exc(),
        }
        try:
            write_json(Path(job.directory) / f"error-{rank}.json", report)
        except OSError:
            print(json.dumps(report), file=sys.stderr)
        traceback.print_exc()
        end_process(1)  # without `leave`: it would wait for the other ranks in a collective that will never end
    end_process()


if __name__ == "__main__":
    run(Worker.pretrain)
