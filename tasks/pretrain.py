"""Prefect task of the pre-training stage: from token shards to a checkpoint."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.states import State

from longcat.accelerator import choose
from longcat.artifact import Artifact, Workspace
from longcat.assess.sovereignty import tags_of_run
from longcat.config import PipelineConfig
from longcat.corpus.facts import TokensFacts
from longcat.errors import DeviceError
from longcat.figures import png_uri
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.printable import duration, large_count, markdown_text, printable
from longcat.progress import Reporter
from longcat.tasks.orchestrator import prefect_tags, tell
from longcat.tasks.stage import measured, part_of, run_stage, stage_task
from longcat.tracking import StageRun, Tracker, model_name
from longcat.tracking.notes import code, code_block, next_commands, stage_note
from longcat.training import stage
from longcat.training.availability import life_of
from longcat.training.given_start import given_start
from longcat.training.life import read_events
from longcat.training.metrics import Records, read_metrics
from longcat.training.spent import spent_by

SETTINGS = ("seed", "accelerator", "model", "training", "parallel", "corpus.sequence_length_tokens")
"""Settings that explain what the run shows."""
CURVES = ("train/loss", "held_out/loss")
"""Curves that the run of the whole flow has as well, so that MLflow's first page can lay them over each other."""


@stage_task
def pretrain(
    config: PipelineConfig, tokens: Artifact[TokensFacts], workspace: Workspace, tracker: Tracker
) -> State[Artifact[CheckpointFacts]]:
    """Train the model; the training processes use neither Prefect nor MLflow."""

    def log(run: StageRun, records: Records) -> None:
        run.log_records(records)
        tracker.run.log_records(
            [{name: one[name] for name in one if name in CURVES or name in ("time", "step")} for one in records]
        )

    def work(report: Reporter, run: StageRun) -> Artifact[CheckpointFacts]:
        run.log_input(tokens, "training", {"train_tokens": tokens.facts.train_tokens, "rows": tokens.facts.train_rows})
        if (start := given_start(config, workspace)) is not None:
            run.use_model(model_name(config), start)
            run.set_tags({"init_from": start.digest})
        return stage.pretrain(
            config, tokens, workspace=workspace, report=report, on_metrics=lambda records: log(run, records)
        )

    def publish(run: StageRun, checkpoint: Artifact[CheckpointFacts]) -> None:
        folder = CheckpointFolder(checkpoint.path)
        if checkpoint.cached:  # the curves belong to this run's page as well
            log(run, read_metrics(folder.metrics))
        run.log_artifact(folder.metrics)
        run.log_artifact(folder.expert_load_picture)
        if (life := life_of(read_events(folder.path), read_metrics(folder.metrics))) is not None:
            run.log_metrics(life.figures)
            run.set_tags({"availability": f"{life.availability_percent:.2f} %"})
            run.log_artifact(folder.events)
            run.log_artifact(folder.life_picture)
        cost = spent_by(config, checkpoint.facts, checkpoint.facts.seconds_training if life is None else life.seconds)
        run.log_metrics(cost)
        tracker.run.set_tags({name: f"{value:.6g}" for name, value in cost.items()})
        run.log_artifact(folder.samples, folder.samples.name)
        with suppress(DeviceError):  # of a head without an accelerator of its own
            run.set_tags(tags_of_run(choose(config.accelerator)))
        if samples := read_samples(folder.samples):
            run.log_table("samples.json", ("step", "text"), samples)
        known = measured(checkpoint.facts)
        run.set_note(
            stage_note(checkpoint, checkpoint.facts.seconds_training, known | cost, prefect_tags().get("prefect.url"))
        )
        run.register_model(
            model_name(config),
            checkpoint,
            description=version_note(checkpoint),
            params=part_of(config, SETTINGS),
            metrics=known,
            tags={name: f"{value:.6g}" for name, value in (known | cost).items()},
            step=checkpoint.facts.steps,
        )
        tell(
            create_table_artifact,
            checkpoint_table(checkpoint.facts),
            key="checkpoint",
            description=f"checkpoint/{checkpoint.digest}",
        )
        tell(create_markdown_artifact, training_page(checkpoint), key="training-report")

    return run_stage("pretrain", tracker, work, publish, config, SETTINGS)


def read_samples(folder: Path) -> list[tuple[int, str]]:
    """Return the samples of text in a checkpoint: the step that each is of, and the text."""
    return [(int(path.stem), path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.txt"))]


def checkpoint_table(facts: CheckpointFacts) -> list[dict[str, str]]:
    """Return what Prefect's page shows of a checkpoint: rows of `what` and `value`, without what does not apply to it."""

    def told(value: float | str | None, form: str) -> str | None:
        return None if value is None else form.format(value)

    layouts = [f"{layout} from step {layout.from_step + 1:,} on" for layout in facts.layouts]
    rows = {
        "parameters": large_count(facts.parameters),
        "imported from": facts.imported_from,
        "left out of it": "; ".join(facts.notes),
        "began with the weights of": told(facts.init_from, "checkpoint/{}"),
        "steps": told(facts.steps or None, "{:,}"),
        "tokens trained on": told(facts.tokens or None, "{:,}"),
        "final loss": told(facts.final_loss, "{:.4f} nats per token"),
        "held-out loss": told(facts.held_out_loss, "{:.4f} nats per token"),
        "routed experts of a token": told(facts.ffn_experts_per_token, "{:.2f}"),
        "speed": told(facts.tokens_per_second, "{:,.0f} tokens/s"),
        "MFU": told(facts.mfu, "{:.2%}"),
        "peak that the MFU is of": told(facts.peak_flops and facts.peak_flops / 1e12, "{:.4g} TFLOP/s"),
        "layout": "; ".join(layouts if len(layouts) > 1 else map(str, facts.layouts)),
        "precision": facts.precision,
        "device": facts.device,
        "training took": duration(facts.seconds_training) if facts.seconds_training else None,
    }
    return [{"what": name, "value": printable(value)} for name, value in rows.items() if value]


def version_note(checkpoint: Artifact[CheckpointFacts]) -> str:
    """Return Markdown that describes a checkpoint on the page of its version."""
    facts = checkpoint.facts
    lines = [
        f"{markdown_text(facts.headline)}; {large_count(facts.parameters)} parameters, {facts.steps:,} steps"
        + ("" if facts.device is None else f", {facts.processes} x {markdown_text(facts.device)}"),
        f"Token ids in, logits out. Weights, tokenizer and state are in {code(checkpoint.path)}; MLflow has no copy of them.",
        code_block(next_commands(checkpoint.kind, checkpoint.digest, checkpoint.path)),
    ]
    return "\n\n".join(lines)


def training_page(checkpoint: Artifact[CheckpointFacts]) -> str:
    """Return Markdown of what was trained, with the pictures of the checkpoint in it."""
    folder = CheckpointFolder(checkpoint.path)
    pictures = {"Load of the experts": folder.expert_load_picture, "Life of the run": folder.life_picture}
    parts = ["# Training", markdown_text(checkpoint.facts.headline), f"`{printable(str(checkpoint.path))}`"]
    parts += [f"![{title}]({png_uri(path.read_bytes())})" for title, path in pictures.items() if path.is_file()]
    return "\n\n".join(parts) + "\n"
