"""Prefect task of the evaluation stage: scores of the checkpoint."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact
from prefect.states import State

from longcat.artifact import Artifact, Workspace
from longcat.config import PipelineConfig
from longcat.corpus.facts import TokensFacts
from longcat.evaluation import stage
from longcat.evaluation.champion import decide, require, tags_of
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.tasks.orchestrator import tell
from longcat.tasks.stage import results, run_stage, stage_task
from longcat.tracking import StageRun, Tracker, model_name

SETTINGS = ("accelerator", "evaluation")
"""Settings that explain what the run shows."""


@stage_task
def evaluate(
    config: PipelineConfig,
    tokens: Artifact[TokensFacts],
    checkpoint: Artifact[CheckpointFacts],
    workspace: Workspace,
    tracker: Tracker,
) -> State[Artifact[stage.EvaluationFacts]]:
    """Score the checkpoint: bits per byte against n-grams, and lm-evaluation-harness tasks; then judge it by the gates."""

    def publish(run: StageRun, result: Artifact[stage.EvaluationFacts]) -> None:
        run.log_input(tokens, context="evaluation")
        run.use_model(model_name(config), checkpoint, results(result.facts))
        for name in ("report.html", "report.md", "result.json", "results.json"):
            if (result.path / name).is_file():
                run.log_artifact(result.path / name)
        tell(create_markdown_artifact, (result.path / "report.md").read_text(encoding="utf-8"), key="evaluation-report")
        stage.refuse_failures(result)
        decision = decide(config, model_name(config), result, checkpoint, workspace)
        promoted = decision is not None and decision.promoted
        run.judge_model(model_name(config), checkpoint, tags_of(decision, result, checkpoint), champion=promoted)
        require(decision, workspace, result)

    return run_stage(
        "evaluate",
        tracker,
        lambda report, run: stage.evaluate(config, tokens, checkpoint, workspace=workspace, report=report),
        publish,
        config,
        SETTINGS,
        "report.html",
    )
