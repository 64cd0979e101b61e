"""Prefect task of the pre-training stage: from token shards to a checkpoint."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.states import State

from longcat.artifact import Artifact, Workspace
from longcat.config import PipelineConfig
from longcat.corpus.facts import TokensFacts
from longcat.figures import png_uri
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.printable import markdown_text, printable
from longcat.progress import Reporter
from longcat.tasks.orchestrator import tell
from longcat.tasks.stage import run_stage, stage_task
from longcat.tracking import StageRun, Tracker, model_name
from longcat.training import stage
from longcat.training.availability import life_of
from longcat.training.life import read_events
from longcat.training.metrics import read_metrics


@stage_task
def pretrain(
    config: PipelineConfig, tokens: Artifact[TokensFacts], workspace: Workspace, tracker: Tracker
) -> State[Artifact[CheckpointFacts]]:
    """Train the model; the training processes use neither Prefect nor MLflow."""

    def work(report: Reporter, run: StageRun) -> Artifact[CheckpointFacts]:
        run.log_input(tokens, context="training")
        return stage.pretrain(config, tokens, workspace=workspace, report=report, on_metrics=run.log_records)

    def publish(run: StageRun, checkpoint: Artifact[CheckpointFacts]) -> None:
        folder = CheckpointFolder(checkpoint.path)
        if checkpoint.cached:  # the curves belong to this run's page as well
            run.log_records(read_metrics(folder.metrics))
        run.log_artifact(folder.metrics)
        run.log_artifact(folder.expert_load_picture)
        if (life := life_of(read_events(folder.path), read_metrics(folder.metrics))) is not None:
            run.log_metrics(life.figures)
            run.set_tags({"availability": f"{life.availability_percent:.2f} %"})
            run.log_artifact(folder.events)
            run.log_artifact(folder.life_picture)
        run.log_artifact(folder.samples, folder.samples.name)
        run.register_model(model_name(config), checkpoint)
        facts = [{"fact": name, "value": str(value)} for name, value in checkpoint.facts.model_dump().items()]
        tell(create_table_artifact, facts, key="checkpoint", description=f"checkpoint/{checkpoint.digest}")
        tell(create_markdown_artifact, training_page(checkpoint), key="training-report")

    return run_stage("pretrain", tracker, work, publish)


def training_page(checkpoint: Artifact[CheckpointFacts]) -> str:
    """Return Markdown of what was trained, with the pictures of the checkpoint in it."""
    folder = CheckpointFolder(checkpoint.path)
    pictures = {"Load of the experts": folder.expert_load_picture, "Life of the run": folder.life_picture}
    parts = ["# Training", markdown_text(checkpoint.facts.headline), f"`{printable(str(checkpoint.path))}`"]
    parts += [f"![{title}]({png_uri(path.read_bytes())})" for title, path in pictures.items() if path.is_file()]
    return "\n\n".join(parts) + "\n"
