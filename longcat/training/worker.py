"""A training process: `python -m longcat.training.worker JOB.json`, started by torchrun, one per rank.

Knows nothing of Prefect or MLflow. SIGTERM makes all ranks save a checkpoint after the step in work and leave.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
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
from longcat.training import checkpoint
from longcat.training.balance import load_metrics
from longcat.training.job import RESULT, Job
from longcat.training.losses import active_losses
from longcat.training.metrics import MetricsFile
from longcat.training.regions import DATA
from longcat.training.trainer import StepResult, Trainer


class Worker:
    """The job's objects in one process."""

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
        """Train to the last step, from the newest checkpoint if there is one, and write down its state."""
        folder = CheckpointFolder(self.directory)
        training, states = self.config.training, folder.progress
        done = 0
        if newest := checkpoint.saved(states):
            done = checkpoint.load(newest[-1][1], self.trainer.weights, self.trainer.optimizers)
        metrics = MetricsFile(folder.metrics, after_step=done) if self.mesh.rank == 0 else None
        window_began, window_step, working = time.perf_counter(), done, 0.0
        ffn_experts = 0.0
        for step in range(done, training.steps):
            result = self.step(step)
            done = step + 1
            figures = self._figures(result, step)
            ffn_experts = figures["moe/ffn_experts_per_token"]
            if done % training.log_every_steps == 0 or done == training.steps:
                self.accelerator.synchronize()
                seconds = time.perf_counter() - window_began
                working += seconds
                figures |= self._throughput((done - window_step) * self.batch_tokens / seconds, ffn_experts)
            if metrics:
                metrics.append({"step": done, "time": time.time(), "attempt": self.job.attempt, **figures})
            if result.stop or (done % training.checkpoint_every_steps == 0 and done < training.steps):
                checkpoint.save(states, done, self.trainer.weights, self.trainer.optimizers, training.keep_checkpoints)
            if result.stop and done < training.steps:
                return
            if done % training.log_every_steps == 0:  # time spent on checkpoints is not training time
                window_began, window_step = time.perf_counter(), done
        self._finish(done, ffn_experts)

    def _figures(self, result: StepResult, step: int) -> dict[str, float]:
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
            "perf/peak_memory_gb": self.accelerator.peak_memory_bytes() / 1e9,
        }
        if self.job.peak_flops:
            figures["perf/mfu"] = achieved / self.job.peak_flops
        return figures

    def _finish(self, steps: int, ffn_experts: float) -> None:
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
