"""Task: corpus to tokens."""

from __future__ import annotations

from prefect.artifacts import create_table_artifact
from prefect.states import State

from longcat.artifact import Artifact, Workspace
from longcat.config import PipelineConfig
from longcat.corpus import stage
from longcat.tracking import StageRun, Tracker
from tasks.stage import run_stage, stage_task


@stage_task
def preprocess(config: PipelineConfig, workspace: Workspace, tracker: Tracker) -> State[Artifact]:
    """Read, clean, tokenise and pack the corpus."""

    def publish(run: StageRun, tokens: Artifact) -> None:
        run.log_input(tokens, context="preprocessing")
        run.log_artifact(tokens.path / "index.json")
        facts = [{"fact": name, "value": str(value)} for name, value in tokens.facts.items()]
        create_table_artifact(facts, key="corpus", description=f"tokens/{tokens.digest}")

    return run_stage(
        "preprocess",
        tracker,
        lambda report, run: stage.preprocess(config, workspace=workspace, report=report),
        publish,
    )
