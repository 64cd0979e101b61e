"""Task: score the checkpoint."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact
from prefect.states import State

from longcat.artifact import Artifact, Workspace
from longcat.config import PipelineConfig
from longcat.evaluation import stage
from longcat.tracking import StageRun, Tracker
from tasks.stage import run_stage, stage_task


@stage_task
def evaluate(
    config: PipelineConfig, tokens: Artifact, checkpoint: Artifact, workspace: Workspace, tracker: Tracker
) -> State[Artifact]:
    """Bits per byte against n-grams, and lm-evaluation-harness tasks."""

    def publish(run: StageRun, result: Artifact) -> None:
        run.log_input(tokens, context="evaluation")
        for name, figures in result.facts["tasks"].items():
            run.log_metrics({f"{name}/{metric}": value for metric, value in figures.items()})
        for name in ("report.md", "result.json"):
            run.log_artifact(result.path / name)
        create_markdown_artifact((result.path / "report.md").read_text(encoding="utf-8"), key="evaluation-report")

    return run_stage(
        "evaluate",
        tracker,
        lambda report, run: stage.evaluate(config, tokens, checkpoint, workspace=workspace, report=report),
        publish,
    )
