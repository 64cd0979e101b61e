"""The pre-training stage: a tokens artifact becomes a checkpoint artifact."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longcat.artifact import Artifact, Recipe, Workspace
from longcat.config import PipelineConfig, identity
from longcat.corpus.shards import TokenCorpus
from longcat.disk import copy_file, remove
from longcat.errors import ArtifactError
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import CheckpointFolder, model_folder
from longcat.interchange.convert import complete_tokenizer
from longcat.interchange.folder import write_huggingface
from longcat.peak import peak
from longcat.progress import Progress, Reporter, no_progress
from longcat.provenance import code_of
from longcat.training.beat import FOLDER
from longcat.training.continuing import choose_start, first_state, peak_so_far, tell, tell_of_reuse
from longcat.training.given_start import check_tokens, given_start
from longcat.training.given_state import keep_states
from longcat.training.job import ERRORS, JOB, RESULT, Job
from longcat.training.layout import settle_layout, training_device
from longcat.training.layouts import layout_since
from longcat.training.life_picture import plot_life
from longcat.training.metrics import Records, read_metrics, summarise
from longcat.training.plots import plot_expert_load
from longcat.training.room import check_room
from longcat.training.state_reader import state_reader
from longcat.training.supervision import supervise
from longcat.unpacking import read_json

STAGE_VERSION = 6
WORKER = "longcat.training.worker"


def pretrain(
    config: PipelineConfig,
    tokens: Artifact[Any],
    *,
    workspace: Workspace,
    report: Reporter = no_progress,
    on_metrics: Callable[[Records], None] = lambda records: None,
) -> Artifact[CheckpointFacts]:
    """Train a model on a tokens artifact; an interrupted run goes on from its last checkpoint.

    It may go on in another layout, and a finished checkpoint with fewer steps may go on to more, as a parent of the new one:
    `longcat.training.continuing`. With `training.init_from` the first step begins with the weights of another checkpoint, which
    is a parent, too.

    Args:
        config: sections `model` and `training`, and the seed.
        tokens: from `longcat.corpus.stage.preprocess`.
        workspace: where the artifact goes.
        report: hears of progress in steps.
        on_metrics: gets the records of metrics.jsonl as they appear, see `Follower`.

    Returns:
        A `checkpoint` artifact, see `CheckpointFolder`.

    Raises:
        ConfigError: the layout does not fit the machine or the batch, or `training.init_from` not the configuration.
        ArtifactError: the tokens do not fit the model, or another tokenizer made them than that of `training.init_from`.
        TrainingError: the processes failed more often than `training.max_restarts` allows.
    """
    accelerator = training_device(config)
    layout = settle_layout(config, accelerator)
    _check_contract(config, tokens)
    start = given_start(config, workspace)
    if start is not None:
        check_tokens(config, start, tokens.path)
    now = layout_since(config, layout, accelerator.name, 0)

    def recipe_of(earlier: Artifact[CheckpointFacts] | None) -> Recipe[CheckpointFacts]:
        return Recipe(
            kind="checkpoint",
            facts=CheckpointFacts,
            version=STAGE_VERSION,
            identity={
                "seed": config.seed,
                "model": identity(config.model),
                "training": identity(config.training),
                "device": [layout.accelerator, layout.precision],
                **({} if start is None else {"init_from": start.digest}),
            },
            parents=(tokens, *(of for of in (start, earlier) if of is not None)),
            sources=code_of(__name__, WORKER),
        )

    recipe, earlier = choose_start(workspace, recipe_of)
    passed_on = 0

    def pass_on(records: Records) -> None:
        nonlocal passed_on
        on_metrics(records)
        passed_on = max(passed_on, records[-1]["step"])

    def build(directory: Path) -> CheckpointFacts:
        folder = CheckpointFolder(directory)
        if not (directory / RESULT).is_file():
            check_room(config, workspace.path)
        began = time.monotonic()
        peak_flops = peak_so_far(directory, earlier, accelerator.name) if accelerator.kind == "cpu" else None
        if peak_flops is None and (best := peak(accelerator, layout.precision, workspace.path)) is not None:
            peak_flops = best.of(layout.degrees.processes)
        job = Job(
            config=config.model_dump(mode="json"),
            layout=layout,
            tokens=str(tokens.path),
            directory=str(directory),
            start_from=first_state(earlier, directory),
            weights=None if start is None else str(model_folder(start.path)),
            moments=str(CheckpointFolder(start.path).state) if start and config.training.init_optimizer else None,
            run=recipe.digest,
            workspace=str(workspace.path),
            device=accelerator.name,
            peak_flops=peak_flops,
        )
        if not (directory / RESULT).is_file():  # else only what follows was interrupted

            def on_settled(settled: Job) -> None:
                tell(directory, earlier, layout_since(config, settled.layout, settled.device, 0))

            supervise(WORKER, job, config, report, pass_on, on_settled)
        if local := job.local_folder:  # the processes may have been killed before they removed it
            remove(local)
        report(Progress("pretrain", config.training.steps, config.training.steps, "writing the model"))
        write_huggingface(folder.huggingface, config.model, state_reader(folder.state))
        copy_file(TokenCorpus.open(tokens.path).tokenizer_path, folder.tokenizer)
        complete_tokenizer(folder.huggingface, config.model)
        plot_expert_load(folder.expert_load, config.model.n_routed_experts, folder.expert_load_picture)
        plot_life(directory, read_metrics(folder.metrics), folder.life_picture)
        keep_states(directory, config.training, workspace)
        result = read_json(directory / RESULT)
        last = result["layouts"][-1]
        return CheckpointFacts(
            **result,
            init_from=None if start is None else start.digest,
            **summarise(read_metrics(folder.metrics)),
            processes=last["processes"],
            parallel=last["parallel"],
            precision=layout.precision,
            peak_flops=read_json(directory / JOB).get("peak_flops"),
            device=last["device"],
            seconds_training=round(time.monotonic() - began, 1),
        )

    scratch = (JOB, RESULT, ERRORS, FOLDER, CheckpointFolder(Path()).progress.name)
    checkpoint = workspace.materialize(recipe, build, resumable=True, scratch=scratch)
    if checkpoint.cached:
        tell_of_reuse(checkpoint, now)
    else:  # what is trained already, and only had to be finished, has a curve too
        records = read_metrics(CheckpointFolder(checkpoint.path).metrics)
        if rest := [record for record in records if record["step"] > passed_on]:
            on_metrics(rest)
    return checkpoint


def _check_contract(config: PipelineConfig, tokens: Artifact[Any]) -> None:
    corpus = TokenCorpus.open(tokens.path)
    if corpus.vocabulary_size > config.model.vocabulary:
        raise ArtifactError(
            f"{tokens.path} has token ids up to {corpus.vocabulary_size - 1}, model.vocab_size is {config.model.vocabulary}"
        )
    if corpus.end_of_text != config.model.end_of_text:
        raise ArtifactError(
            f"{tokens.path} ends documents with token {corpus.end_of_text}, model.eos_token_id is {config.model.end_of_text}"
        )
    if corpus.sequence_length > config.model.max_position_embeddings:
        raise ArtifactError(
            f"{tokens.path} has sequences of {corpus.sequence_length} tokens, "
            f"model.max_position_embeddings is {config.model.max_position_embeddings}"
        )
