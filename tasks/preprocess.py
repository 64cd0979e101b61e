"""Prefect task of the preprocessing stage: from the corpus to token shards."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact
from prefect.states import State

from longcat.artifact import Artifact, Workspace, write_json
from longcat.config import PipelineConfig
from longcat.corpus import stage
from longcat.corpus.card import CARD_HTML, CARD_MARKDOWN
from longcat.corpus.facts import TokensFacts
from longcat.corpus.inputs import input_files
from longcat.progress import Reporter
from longcat.tasks.cluster import mapper_for
from longcat.tasks.orchestrator import tell
from longcat.tasks.stage import run_stage, stage_task
from longcat.tracking import StageRun, Tracker
from longcat.tracking.record import INPUTS


@stage_task
def preprocess(config: PipelineConfig, workspace: Workspace, tracker: Tracker) -> State[Artifact[TokensFacts]]:
    """Read, clean, tokenise and pack the corpus."""

    def publish(run: StageRun, tokens: Artifact[TokensFacts]) -> None:
        run.log_input(tokens, context="preprocessing")
        for name in ("index.json", CARD_HTML, CARD_MARKDOWN):
            run.log_artifact(tokens.path / name)
        if files := input_files(config.corpus, workspace.sha256):
            listed = workspace.path / "tracking" / f"{tokens.facts.documents_artifact}.{INPUTS}"
            write_json(listed, files)
            run.log_artifact(listed, INPUTS.removesuffix(".json"))
        tell(create_markdown_artifact, (tokens.path / CARD_MARKDOWN).read_text(encoding="utf-8"), key="data-card")

    def work(report: Reporter, run: StageRun) -> Artifact[TokensFacts]:
        with mapper_for(config.corpus) as mapper:
            return stage.preprocess(config, workspace=workspace, report=report, mapper=mapper)

    return run_stage("preprocess", tracker, work, publish)
