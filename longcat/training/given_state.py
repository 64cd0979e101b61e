"""States of a run, made checkpoints of their own: weights, `config.json` and tokenizer, to be scored, served or exported.

A state is named by its folder (`checkpoints/step-00000100` of a run in progress) or as `DIGEST@100`: the run's digest, or its
beginning, and the steps. Of a finished run those are there that `training.keep_every_steps` has kept.
"""

from __future__ import annotations

import re
from pathlib import Path

from longcat.artifact import Artifact, Recipe, Workspace, read_manifest, sha256_file
from longcat.config.training import TrainingConfig
from longcat.corpus.facts import TokensFacts
from longcat.corpus.shards import TokenCorpus
from longcat.disk import copy_file
from longcat.errors import ArtifactError, ConfigError
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import NAMED, CheckpointFolder
from longcat.interchange.convert import complete_tokenizer
from longcat.interchange.folder import write_huggingface
from longcat.interchange.state_dict_map import count_parameters, state_dict_map
from longcat.provenance import code_of
from longcat.training import checkpoint_files as files
from longcat.training.job import JOB, Job
from longcat.training.metrics import read_metrics, summarise
from longcat.training.state_reader import state_reader

STAGE_VERSION = 1
_NAMED = re.compile(r"([0-9a-f]{4,})@(\d{1,8})")


def state_as_checkpoint(what: str, workspace: Workspace | None, option: str = NAMED) -> str:
    """Return the folder of the checkpoint that is made of a state; what names no state is returned as it is.

    Args:
        what: a state, or any other name of a checkpoint.
        workspace: where runs are looked for, and where the checkpoint is made; a folder's own one if None.
        option: the option or setting that it was given by, for errors.

    Raises:
        ConfigError: there is no such run or state.
        ArtifactError: the state is not what was written, or the run's own files are gone.
    """
    if named := _NAMED.fullmatch(what):
        if workspace is None:
            raise ConfigError(f"{option}{what}: there is no workspace in which runs could be looked for")
        return str(_of_run(named[1], int(named[2]), workspace, option))
    folder = Path(what).expanduser().resolve()
    if not (folder / files.DIGESTS).is_file():
        return what
    return str(checkpoint_of(folder, workspace or Workspace(folder.parents[3])).path)


def checkpoint_of(state: Path, workspace: Workspace) -> Artifact[CheckpointFacts]:
    """Make a checkpoint of a state of a run in progress, or return the one that has been made.

    Raises:
        ArtifactError: the state is not what was written, or the run's own files are gone.
    """
    if fault := files.fault(state):
        raise ArtifactError(fault)
    step, path = int(state.name.rpartition("-")[2]), state.parents[1] / JOB
    try:
        job = Job.read(path)
        tokens = read_manifest(Path(job.tokens), TokensFacts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{state}: the run's own {path} is missing or unreadable ({error})") from None
    config, corpus = job.pipeline, TokenCorpus.open(tokens.path)
    recipe = Recipe(
        kind="checkpoint",
        facts=CheckpointFacts,
        version=STAGE_VERSION,
        identity={"run": job.run, "step": step, "state": sha256_file(state / files.DIGESTS)},
        parents=(tokens,),
        sources=code_of(__name__),
    )

    def build(directory: Path) -> CheckpointFacts:
        folder = CheckpointFolder(directory)
        write_huggingface(folder.huggingface, config.model, state_reader(state))
        copy_file(corpus.tokenizer_path, folder.tokenizer)
        complete_tokenizer(folder.huggingface, config.model)
        records = [of for of in read_metrics(CheckpointFolder(state.parents[1]).metrics) if of["step"] <= step]
        return CheckpointFacts(
            **summarise(records),
            parameters=count_parameters(state_dict_map(config.model)),
            steps=step,
            tokens=step * config.training.global_batch_sequences * corpus.sequence_length,
            precision=job.layout.precision,
            device=job.device,
        )

    return workspace.materialize(recipe, build)


def keep_states(run: Path, training: TrainingConfig, workspace: Workspace) -> None:
    """Make checkpoints of the states that `training.keep_every_steps` keeps, before those of a finished run go."""
    every = training.keep_every_steps
    for step, state in files.saved(CheckpointFolder(run).progress) if every else ():
        if step % every == 0 and step < training.steps:  # the last one is the run's own checkpoint
            checkpoint_of(state, workspace)


def _of_run(beginning: str, step: int, workspace: Workspace, option: str) -> Path:
    kept = workspace.path / "checkpoint"
    found: dict[str, Path] = {}
    for run in kept.glob(f".{beginning}*.partial"):
        if (state := files.folder_of(CheckpointFolder(run).progress, step)).is_dir():
            found[run.name] = state
    for path in kept.glob("[!.]*") if not found else ():
        try:
            made = read_manifest(path, CheckpointFacts)
        except ArtifactError:  # of an earlier version
            continue
        run, of = made.manifest["identity"].get("run"), made.manifest["identity"].get("step")
        if isinstance(run, str) and run.startswith(beginning) and of == step:
            found[run] = path
        elif path.name.startswith(beginning) and made.facts.steps == step:
            found[path.name] = path
    if not found:
        raise ConfigError(
            f"{option}{beginning}@{step}: no run in {kept} that begins so has a state after step {step}; "
            "training.keep_every_steps keeps some"
        )
    if len(found) > 1:
        raise ConfigError(f"{option}{beginning}@{step}: several runs begin so: {', '.join(sorted(found))}")
    [path] = found.values()
    return path if not (path / files.DIGESTS).is_file() else checkpoint_of(path, workspace).path
