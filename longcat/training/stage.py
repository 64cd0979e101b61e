"""The pre-training stage, and the measurement that the benchmark asks for."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longcat.accelerator import Accelerator, choose
from longcat.artifact import Artifact, Recipe, Workspace
from longcat.benchmark.hardware import peak
from longcat.config import PipelineConfig, identity
from longcat.corpus.shards import TokenCorpus
from longcat.errors import ArtifactError, ConfigError, TrainingError
from longcat.interchange.folder import write_huggingface
from longcat.interchange.state import reader as state_reader
from longcat.progress import Progress, Reporter, silent
from longcat.training.job import EXPERT_LOAD, METRICS, RESULT, Job, Layout
from longcat.training.launch import launch
from longcat.training.metrics import Follower, read_metrics
from longcat.training.plots import plot_expert_load

STAGE_VERSION = 3
_PACKAGE = Path(__file__).parents[1]
SOURCES = (
    _PACKAGE / "model",
    _PACKAGE / "interchange",
    _PACKAGE / "ops",
    _PACKAGE / "parallel",
    _PACKAGE / "training",
    _PACKAGE / "corpus/loader.py",
    _PACKAGE / "corpus/shards.py",
)

EXPERT_LOAD_PICTURE = "expert-load.png"

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Measurement:
    """Timed steps of training."""

    window_seconds: list[float]
    window_steps: int
    window_peak_flops: list[float]
    """Of a CPU: best product of all processes at once, FLOP/s, before the first window and after each one; of an
    accelerator nothing."""
    batch_tokens: int
    """Tokens of one step, over all processes."""
    processes: int
    expert_parallel: int
    sequence_length: int
    precision: Literal["bf16", "fp32"]
    ffn_experts_per_token: float
    """Mean routed experts of a token, as measured."""
    peak_memory_bytes: int
    """Of the process that needed most."""
    memory: dict[str, int]
    """Bytes of the first process by what holds them; see `longcat.training.measuring.memory`."""
    breakdown: dict[str, Any] | None
    """See `longcat.benchmark.breakdown.Breakdown`."""
    operators: dict[str, Any] | None
    """`kernels`, see `longcat.benchmark.kernels.Kernel`, and `bandwidth` of the memory in bytes/s."""
    collectives: list[dict[str, Any]]
    """See `longcat.benchmark.collectives.Collective`."""
    device_kind: str
    device_name: str


def settle_layout(config: PipelineConfig, accelerator: Accelerator) -> Layout:
    """Fill in what the configuration leaves to the machine.

    Raises:
        ConfigError: batch, processes and expert parallelism do not fit one another, or the precision is missing here.
    """
    training = config.training
    processes = training.processes or accelerator.count
    expert_parallel = training.expert_parallel or math.gcd(processes, config.model.n_routed_experts)
    if processes % expert_parallel:
        raise ConfigError(
            f"training.expert_parallel={expert_parallel} does not divide training.processes={processes}"
            + ("" if training.processes else f" (this machine's count of {accelerator.kind} devices)")
        )
    if training.global_batch_sequences % processes:
        raise ConfigError(
            f"training.global_batch_sequences={training.global_batch_sequences} is not a multiple of training.processes={processes}"
        )
    if accelerator.kind != "cpu" and processes > accelerator.count:
        raise ConfigError(
            f"training.processes={processes}, but there are {accelerator.count} {accelerator.kind} devices"
        )
    precision = training.precision
    if precision == "auto":
        precision = "bf16" if accelerator.supports_bf16 else "fp32"
    return Layout(accelerator.kind, processes, expert_parallel, precision)


def pretrain(
    config: PipelineConfig,
    tokens: Artifact,
    *,
    workspace: Workspace,
    report: Reporter = silent,
    on_metrics: Callable[[Records], None] = lambda records: None,
) -> Artifact:
    """Train a model on a tokens artifact; an interrupted run goes on from its last checkpoint.

    Args:
        config: sections `model` and `training`, and the seed.
        tokens: from `longcat.corpus.stage.preprocess`.
        workspace: where the artifact goes.
        report: hears of progress in steps.
        on_metrics: gets the records of metrics.jsonl as they appear, each step once.

    Returns:
        A `checkpoint` artifact: `huggingface/` (model and tokenizer), `state/` (torch distributed checkpoint with the
        optimizer), `metrics.jsonl`, `expert-load.jsonl` and its picture, and `samples/` of text.

    Raises:
        ConfigError: the layout does not fit the machine or the batch.
        ArtifactError: the tokens do not fit the model.
        TrainingError: the processes failed more often than `training.max_restarts` allows.
    """
    accelerator = choose(config.accelerator)
    layout = settle_layout(config, accelerator)
    _check_contract(config, tokens)
    recipe = Recipe(
        kind="checkpoint",
        version=STAGE_VERSION,
        identity={
            "seed": config.seed,
            "model": identity(config.model),
            "training": identity(config.training),
            "layout": [layout.accelerator, layout.processes, layout.expert_parallel, layout.precision],
        },
        parents=(tokens,),
        sources=SOURCES,
    )

    def build(directory: Path) -> Mapping[str, Any]:
        best = peak(accelerator, layout.precision)
        began = time.monotonic()
        job = Job(
            task="pretrain",
            config=config.model_dump(mode="json"),
            layout=layout,
            tokens=str(tokens.path),
            directory=str(directory),
            peak_flops=None if best is None else best.flops * (1 if accelerator.kind == "cpu" else layout.processes),
        )
        if not (directory / RESULT).is_file():  # else only what follows was interrupted
            _supervise(job, config, report, on_metrics)
        report(Progress("pretrain", config.training.steps, config.training.steps, "writing the model"))
        write_huggingface(directory / "huggingface", config.model, state_reader(directory / "state"))
        shutil.copy2(TokenCorpus.open(tokens.path).tokenizer_path, directory / "huggingface/tokenizer.json")
        plot_expert_load(directory / EXPERT_LOAD, config.model.n_routed_experts, directory / EXPERT_LOAD_PICTURE)
        facts = json.loads((directory / RESULT).read_text(encoding="utf-8"))
        facts |= _speed(read_metrics(directory / METRICS))
        facts |= {
            "processes": layout.processes,
            "expert_parallel": layout.expert_parallel,
            "precision": layout.precision,
            "device": accelerator.name,
            "seconds_training": round(time.monotonic() - began, 1),
        }
        for leftover in (directory / "job.json", directory / RESULT):
            leftover.unlink()
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        return facts

    return workspace.materialize(recipe, build, resumable=True)


def measure(
    config: PipelineConfig,
    tokens: Artifact,
    checkpoint: Artifact,
    *,
    directory: Path,
    report: Reporter = silent,
    sequence_length: int | None = None,
    note: str = "timing training steps",
) -> Measurement:
    """Time training steps from a checkpoint's state.

    Args:
        config: sections `model`, `training` and `benchmark`.
        tokens: batches are of these.
        checkpoint: of this model.
        directory: for the processes' files; the profiler's trace stays there.
        report: hears that it is under way.
        sequence_length: batches are cut anew to so many tokens; the corpus' own if none.
        note: what is reported.

    Raises:
        TrainingError: a process failed.
    """
    accelerator = choose(config.accelerator)
    layout = settle_layout(config, accelerator)
    directory.mkdir(parents=True, exist_ok=True)
    job = Job(
        task="measure",
        config=config.model_dump(mode="json"),
        layout=layout,
        tokens=str(tokens.path),
        directory=str(directory),
        start_from=str(checkpoint.path / "state"),
        sequence_length=sequence_length,
    )
    training = config.training

    def poll() -> None:
        report(Progress("benchmark", 0, 0, note))

    launch(job, deadline_s=training.deadline_s, grace_s=training.grace_s, poll=poll)
    values = json.loads((directory / RESULT).read_text(encoding="utf-8"))
    return Measurement(
        processes=layout.processes, expert_parallel=layout.expert_parallel, precision=layout.precision, **values
    )


def _check_contract(config: PipelineConfig, tokens: Artifact) -> None:
    corpus = TokenCorpus.open(tokens.path)
    if corpus.vocabulary_size > config.model.vocabulary:
        raise ArtifactError(
            f"{tokens.path} has a vocabulary of {corpus.vocabulary_size}, model.vocab_size is {config.model.vocabulary}"
        )
    if corpus.sequence_length > config.model.max_position_embeddings:
        raise ArtifactError(
            f"{tokens.path} has sequences of {corpus.sequence_length} tokens, "
            f"model.max_position_embeddings is {config.model.max_position_embeddings}"
        )


def _supervise(job: Job, config: PipelineConfig, report: Reporter, on_metrics: Callable[[Records], None]) -> None:
    """Launch, and launch again after a failure, as long as each attempt gets further than the one before."""
    training, directory = config.training, Path(job.directory)
    follower = Follower(directory / METRICS)
    deadline = time.monotonic() + training.deadline_s
    furthest, loss = -1, ""

    def poll() -> None:
        nonlocal loss
        if records := follower.new():
            on_metrics(records)
            loss = f"loss {records[-1]['train/loss']:.3f}"
        report(Progress("pretrain", follower.last_step, training.steps, loss or "starting processes"))

    for attempt in range(training.max_restarts + 1):
        try:
            launch(
                Job(**{**vars(job), "attempt": attempt}),
                deadline_s=deadline - time.monotonic(),
                grace_s=training.grace_s,
                poll=poll,
            )
            break
        except TrainingError:
            reached = max((record["step"] for record in read_metrics(directory / METRICS)), default=0)
            if attempt == training.max_restarts or reached <= furthest or time.monotonic() > deadline:
                raise
            furthest = reached
    poll()
    if not (directory / RESULT).is_file():
        raise TrainingError(f"training left before its last step; run the same command again to go on from {directory}")


def _speed(records: Records) -> dict[str, Any]:
    """Median throughput of the second half of the run, where caches are warm."""
    timed = [record for record in records if "perf/tokens_per_second" in record]
    steady = sorted(timed[len(timed) // 2 :], key=lambda record: float(record["perf/tokens_per_second"]))
    middle = steady[len(steady) // 2]
    return {"tokens_per_second": middle["perf/tokens_per_second"], "mfu": middle.get("perf/mfu")}
