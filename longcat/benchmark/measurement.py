"""The measurement: timed steps of training, as an artifact that knows the device and the code but no reference table."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from longcat.accelerator import choose
from longcat.artifact import Artifact, Facts, Recipe, Workspace, write_json
from longcat.benchmark.measuring import TRACE
from longcat.benchmark.sweep import Point, configured, in_rows_of, points
from longcat.config import BenchmarkConfig, Phase, PipelineConfig, identity
from longcat.corpus.shards import TokenCorpus
from longcat.disk import remove
from longcat.errors import ConfigError, TrainingError
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import CheckpointFolder, model_folder
from longcat.progress import Progress, Reporter, no_progress
from longcat.provenance import code_of
from longcat.training.beat import FOLDER, Beat
from longcat.training.job import RESULT, Job
from longcat.training.layout import settle_layout
from longcat.training.supervision import run_workers
from longcat.unpacking import read_json

STAGE_VERSION = 7
WORKER = "longcat.benchmark.worker"
MEASUREMENT = "measurement.json"
_PROCESSES, _KEPT = "processes", "settings"
"""Folders of the timed processes, and of what was measured, for an interrupted measurement to go on from."""
_REPORT_FIELDS = ("reference_rows",)
"""Fields of the section `benchmark` that only the report depends on, not the measurement."""


@dataclass(frozen=True)
class Measurement:
    """Timed steps of training, with the layout and the device they ran on."""

    window_seconds: list[float]
    """Time of each window."""
    window_steps: int
    """Steps in one window."""
    window_peak_flops: list[float]
    """On a CPU, FLOP/s of the best matrix product of all processes at once, before the first window and after each
    one; empty on an accelerator."""
    batch_tokens: int
    """Tokens of one step, over all processes."""
    processes: int
    parallel: dict[str, int]
    """Degree of each axis of parallelism, by its name in the section `parallel`."""
    sequence_length: int
    precision: Literal["bf16", "fp32"]
    ffn_experts_per_token: float
    """Mean routed experts per token, as measured."""
    peak_memory_bytes: int
    """Peak memory of the process that needed most."""
    memory: dict[str, int]
    """Bytes of the first process by use; see `longcat.benchmark.measuring.memory`."""
    breakdown: dict[str, Any] | None
    """See `longcat.benchmark.breakdown.Breakdown`; with `plain_seconds` and `profiled_seconds` of steps that took turns,
    and `timelines`, see `longcat.benchmark.timeline.Timeline`."""
    operators: dict[str, Any] | None
    """`kernels`, see `longcat.benchmark.kernels.Kernel`; `bandwidth` of the memory in bytes/s; on a CPU `together`, FLOP/s
    of the fastest product in all processes at once."""
    collectives: dict[str, Any] | None
    """See `longcat.benchmark.measuring.collectives`."""
    micro_batches: int
    """Of a process in a step."""
    phase: Phase
    """How attention was trained in the step whose collectives were watched, in a model with sparse attention."""
    device_memory_bytes: int
    """Memory of a device, which decides what weights stay gathered."""
    device_kind: str
    device_name: str

    @property
    def tokens_per_second(self) -> float:
        """Return the median over the windows, summed over all processes."""
        return statistics.median(self.window_steps * self.batch_tokens / seconds for seconds in self.window_seconds)

    @property
    def step_seconds(self) -> float:
        """Return the median time of a step over the windows."""
        return statistics.median(self.window_seconds) / self.window_steps

    @property
    def spread(self) -> float:
        """Return the slowest minus the fastest window, as a fraction of the median."""
        return (max(self.window_seconds) - min(self.window_seconds)) / statistics.median(self.window_seconds)


class MeasurementFacts(Facts):
    """Key figures of a measurement."""

    tokens_per_second: float
    """Speed, summed over all processes."""
    peak_memory_bytes: int
    """Peak memory of the process that needed most."""
    device_name: str
    """As the driver reports it."""
    processes: int
    """Training processes, one per device."""

    @property
    def headline(self) -> str:
        """Return the speed and the devices."""
        return f"{self.tokens_per_second:,.0f} tokens/s on {self.processes} x {self.device_name}"

    @property
    def figures(self) -> dict[str, float | None]:
        """Return the speed."""
        return {"tokens_per_second": self.tokens_per_second}


def measure(
    config: PipelineConfig,
    tokens: Artifact[Any],
    checkpoint: Artifact[CheckpointFacts],
    *,
    workspace: Workspace,
    report: Reporter = no_progress,
) -> Artifact[MeasurementFacts]:
    """Time training steps from a checkpoint, with the run's own settings and with each setting of the sweep.

    One that was trained here goes on from its state; one that holds weights only begins with an optimizer that has seen nothing.

    A measurement is kept like any artifact; delete it to measure again.

    Returns:
        A `measurement` artifact: `measurement.json` (see `read_measurement`) and the profiler's `trace.json.gz`.

    Raises:
        ConfigError: a setting of the sweep does not fit the batch.
        TrainingError: the timed processes failed.
    """
    import torch

    accelerator = choose(config.accelerator)
    layout = settle_layout(config, accelerator)
    recipe = Recipe(
        kind="measurement",
        facts=MeasurementFacts,
        version=STAGE_VERSION,
        identity={
            "benchmark": {
                name: value for name, value in identity(config.benchmark).items() if name not in _REPORT_FIELDS
            },
            # a checkpoint does not know how steps from it are to be made, least of all one of others
            "training": identity(config.training) | {"offload": config.training.optimizer.offload},
            "layout": [*astuple(layout.degrees), layout.precision, config.parallel.model_dump(mode="json")],
            "device": [accelerator.kind, accelerator.name, accelerator.count],
            "torch": torch.__version__,
        },
        parents=(tokens, checkpoint),
        sources=code_of(__name__, WORKER),
    )

    def build(directory: Path) -> MeasurementFacts:
        settings = points(config, TokenCorpus.open(tokens.path).sequence_length, layout.degrees.processes)
        folder = directory / _PROCESSES

        def own() -> dict[str, Any]:
            remove(directory / TRACE)
            one = time_steps(config, tokens, checkpoint, directory=folder, report=report, of=(0, 1 + len(settings)))
            if (trace := folder / TRACE).is_file():
                trace.rename(directory / TRACE)
            return asdict(one)

        def of(number: int, point: Point) -> dict[str, Any]:
            row = point.as_dict()
            try:
                one = time_steps(
                    configured(config, point),
                    tokens,
                    checkpoint,
                    directory=folder,
                    report=report,
                    sequence_length=point.sequence_length_tokens,
                    note=f"timing setting {number} of {len(settings)}",
                    of=(number, 1 + len(settings)),
                )
            except (TrainingError, ConfigError) as error:  # a setting that runs out of memory does not end the sweep
                return {"point": row, "error": str(error).splitlines()[0]}
            return {"point": row, "timed": asdict(one)}

        timed = Measurement(**_once(directory, 0, own))
        sweep = [_once(directory, number, partial(of, number, point)) for number, point in enumerate(settings, 1)]
        write_json(directory / MEASUREMENT, {"timed": asdict(timed), "sweep": sweep})
        return MeasurementFacts(
            tokens_per_second=timed.tokens_per_second,
            peak_memory_bytes=timed.peak_memory_bytes,
            device_name=timed.device_name,
            processes=timed.processes,
        )

    return workspace.materialize(recipe, build, resumable=True, same_code=True, scratch=(_PROCESSES, _KEPT))


def _once(directory: Path, number: int, time: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `time` measures, or has measured before it was interrupted in a later setting."""
    kept = directory / _KEPT / f"{number}.json"
    if not kept.is_file():
        remove(directory / _PROCESSES)
        kept.parent.mkdir(exist_ok=True)
        write_json(kept, time())
    return dict(read_json(kept))


def read_measurement(directory: Path) -> tuple[Measurement, list[dict[str, Any]]]:
    """Read the measurements of an artifact of `measure`.

    Returns:
        The run's own measurement, and one row per setting of the sweep: `point`, and `timed` (a `Measurement`) or `error`.
    """
    values = read_json(directory / MEASUREMENT)
    sweep = [row | {"timed": Measurement(**row["timed"])} if "timed" in row else row for row in values["sweep"]]
    return Measurement(**values["timed"]), sweep


def planned_steps(settings: BenchmarkConfig) -> int:
    """Return the steps that a measurement makes: in windows, one whose messages are seen, and pairs under the profiler."""
    windows = settings.warmup_steps + settings.windows * settings.window_steps
    return windows + 1 + (2 * (settings.profiled_steps + 1) if settings.profiled_steps else 0)


def time_steps(
    config: PipelineConfig,
    tokens: Artifact[Any],
    checkpoint: Artifact[CheckpointFacts],
    *,
    directory: Path,
    report: Reporter = no_progress,
    sequence_length: int | None = None,
    note: str = "timing training steps",
    of: tuple[int, int] = (0, 1),
) -> Measurement:
    """Time training steps from a checkpoint's state, or from its weights where it has no state.

    Args:
        config: sections `model`, `training` and `benchmark`.
        tokens: artifact that the batches come from.
        checkpoint: checkpoint of this model.
        directory: folder for the processes' files; the profiler's trace stays there.
        report: called while the processes run.
        sequence_length: tokens that batches are cut into; the corpus' own sequence length if None.
        note: progress message.
        of: measurements made before this one, and of all.

    Raises:
        TrainingError: a process failed.
    """
    accelerator = choose(config.accelerator)
    layout = settle_layout(in_rows_of(config, sequence_length) if sequence_length else config, accelerator)
    directory.mkdir(parents=True, exist_ok=True)
    state = CheckpointFolder(checkpoint.path).state
    has_state = state.is_dir()
    job = Job(
        config=config.model_dump(mode="json"),
        layout=layout,
        tokens=str(tokens.path),
        directory=str(directory),
        workspace=str(tokens.path.parents[1]),
        start_from=str(state) if has_state else None,
        weights=None if has_state else str(model_folder(checkpoint.path)),
        sequence_length=sequence_length,
    )

    steps = planned_steps(config.benchmark)

    def poll() -> None:
        beat = Beat.read(directory / FOLDER / "0")
        done = 0 if beat is None or not beat.step else min(max(beat.step - config.training.steps, 0), steps)
        text = f"step {done} of {steps}" if done < steps else "operators and collectives"
        report(
            Progress(
                "benchmark", of[0] + done / (steps + 1), of[1], f"{note}: {text if done else 'starting processes'}"
            )
        )

    # the layout that the measurement is named by, not one for the nodes that happen to be there
    all_nodes = config.model_copy(update={"training": config.training.model_copy(update={"min_nodes": 0})})
    run_workers(WORKER, job, all_nodes, config.training.deadline_s, poll)
    values = read_json(directory / RESULT)
    return Measurement(
        processes=layout.degrees.processes, parallel=layout.degrees.by_axis, precision=layout.precision, **values
    )
