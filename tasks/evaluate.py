"""Prefect task of the evaluation stage: scores of the checkpoint."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact
from prefect.states import State

from longcat.artifact import Artifact, Workspace
from longcat.config import PipelineConfig
from longcat.corpus.facts import TokensFacts
from longcat.evaluation import stage
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.tracking import StageRun, Tracker
from tasks.orchestrator import tell
from tasks.stage import run_stage, stage_task


@stage_task
def evaluate(
    config: PipelineConfig,
    tokens: Artifact[TokensFacts],
    checkpoint: Artifact[CheckpointFacts],
    workspace: Workspace,
    tracker: Tracker,
) -> State[Artifact[stage.EvaluationFacts]]:
    """Score the checkpoint: bits per byte against n-grams, and lm-evaluation-harness tasks."""

    def publish(run: StageRun, result: Artifact[stage.EvaluationFacts]) -> None:
        run.log_input(tokens, context="evaluation")
        for name in ("report.md", "result.json", "results.json"):
            if (result.path / name).is_file():
                run.log_artifact(result.path / name)
        tell(create_markdown_artifact, (result.path / "report.md").read_text(encoding="utf-8"), key="evaluation-report")
        stage.refuse_failures(result)

    return run_stage(
        "evaluate",
        tracker,
        lambda report, run: stage.evaluate(config, tokens, checkpoint, workspace=workspace, report=report),
        publish,
    )
