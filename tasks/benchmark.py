"""Prefect task of the benchmark stage: MFU of the trained model, compared with published A100 runs."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact
from prefect.states import State

from longcat.artifact import Artifact, Workspace
from longcat.benchmark import stage
from longcat.config import PipelineConfig
from longcat.corpus.facts import TokensFacts
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.tasks.orchestrator import tell
from longcat.tasks.stage import results, run_stage, stage_task
from longcat.tracking import StageRun, Tracker, model_name

SETTINGS = (
    "accelerator",
    "parallel",
    "benchmark",
    "training.activation_checkpointing",
    "training.global_batch_sequences",
)
"""Settings that explain what the run shows."""


@stage_task
def benchmark(
    config: PipelineConfig,
    tokens: Artifact[TokensFacts],
    checkpoint: Artifact[CheckpointFacts],
    workspace: Workspace,
    tracker: Tracker,
) -> State[Artifact[stage.BenchmarkFacts]]:
    """Time training steps and write the MFU report."""

    def publish(run: StageRun, result: Artifact[stage.BenchmarkFacts]) -> None:
        run.log_input(tokens, context="benchmark")
        run.use_model(model_name(config), checkpoint, results(result.facts))
        for name in ("report.html", "mfu.png", "result.json", "report.md", "trace.json.gz"):
            if (result.path / name).is_file():  # without profiled steps there is no trace
                run.log_artifact(result.path / name)
        tell(create_markdown_artifact, (result.path / "report.md").read_text(encoding="utf-8"), key="mfu-report")

    return run_stage(
        "benchmark",
        tracker,
        lambda report, run: stage.benchmark(config, tokens, checkpoint, workspace=workspace, report=report),
        publish,
        config,
        SETTINGS,
        "report.html",
    )
