"""What training goes on from: its own checkpoints, or a finished checkpoint of the same run with fewer steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from longcat.artifact import MANIFEST, Artifact, Recipe, Workspace, open_artifact, read_manifest
from longcat.disk import copy_file
from longcat.errors import ArtifactError
from longcat.interchange.checkpoint_facts import CheckpointFacts, LayoutSince
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.training.checkpoint_files import RUN, RunRecord, saved
from longcat.training.job import JOB
from longcat.training.layouts import change
from longcat.training.life import record_event
from longcat.unpacking import read_json

CheckpointRecipe = Recipe[CheckpointFacts]


def choose_start(
    workspace: Workspace, recipe_of: Callable[[Artifact[CheckpointFacts] | None], CheckpointRecipe]
) -> tuple[CheckpointRecipe, Artifact[CheckpointFacts] | None]:
    """Choose between training from the start and from a finished checkpoint with fewer steps, which is a parent then.

    What is finished comes first, then what is half made, then the finished checkpoint with the most steps. Only one that is
    about to be gone on from is compared with its digests.

    Args:
        workspace: where checkpoints are.
        recipe_of: gives the recipe of what is wanted, made from a finished checkpoint or from none.
    """
    fresh = recipe_of(None)
    if _finished(workspace, fresh):
        return fresh, None
    recipes = [(recipe_of(found), found) for found in _with_fewer_steps(workspace, fresh)]
    for recipe, found in recipes:
        if _finished(workspace, recipe):
            return recipe, found
    if _begun(workspace, fresh):
        return fresh, None
    for recipe, found in sorted(recipes, key=lambda of: not _begun(workspace, of[0])):
        if _is_sound(found):
            return recipe, found
    return fresh, None


def first_state(earlier: Artifact[CheckpointFacts] | None, directory: Path) -> str | None:
    """Return where the state of a finished checkpoint lies that training goes on from, and take over its records.

    Args:
        earlier: the checkpoint, if there is one.
        directory: of the artifact that is made from it.
    """
    if earlier is None:
        return None
    old, new = CheckpointFolder(earlier.path), CheckpointFolder(directory)
    if not new.metrics.is_file():
        new.samples.mkdir(exist_ok=True)
        for path in sorted(old.samples.glob("*.txt")):
            copy_file(path, new.samples / path.name)
        if old.expert_load.is_file():
            copy_file(old.expert_load, new.expert_load)
        copy_file(old.metrics, new.metrics)  # last of all, as it says that the rest is there
    return str(old.state)


def peak_so_far(directory: Path, earlier: Artifact[CheckpointFacts] | None, device: str) -> float | None:
    """Return the measured peak that the curve of MFU has begun with, so that it has one; None where it begins on this device.

    Args:
        directory: of the artifact that is being made.
        earlier: finished checkpoint that it is made from.
        device: name of the device.
    """
    path = directory / JOB
    if path.is_file():
        begun = read_json(path)
        known = begun.get("device"), begun.get("peak_flops")
    elif earlier is not None:
        known = earlier.facts.device, earlier.facts.peak_flops
    else:
        return None
    return known[1] if known[0] == device else None


def tell(directory: Path, earlier: Artifact[CheckpointFacts] | None, now: LayoutSince) -> None:
    """Say what training is about to go on from, where that is not plain, and in which layout.

    Args:
        directory: of the artifact that is being made.
        earlier: finished checkpoint that it is made from.
        now: layout of what follows.
    """
    if there := saved(CheckpointFolder(directory).progress):
        step, path = there[-1]
        try:
            layouts = RunRecord.read(path).layouts
        except ArtifactError:  # damaged, which the processes will find and tell
            return
        told = f"going on from step {step}"
    elif earlier is not None:
        step, layouts = earlier.facts.steps, earlier.facts.layouts
        told = f"going on from step {step}, the end of {earlier.kind}/{earlier.digest}, which stays as it is"
        if not layouts or change(layouts[-1], now) is None:
            warnings.warn(told, stacklevel=3)
    else:
        return
    if layouts and (difference := change(layouts[-1], now)):
        record_event(directory, "layout", step=step, before=str(layouts[-1]), now=str(now))
        warnings.warn(f"{told}, {difference}", stacklevel=3)


def tell_of_reuse(checkpoint: Artifact[CheckpointFacts], now: LayoutSince) -> None:
    """Say that a finished checkpoint was trained in another layout than the configuration has."""
    layouts = checkpoint.facts.layouts
    if layouts and str(layouts[-1]) != str(now):
        warnings.warn(
            f"reusing {checkpoint.kind}/{checkpoint.digest}, trained on {layouts[-1]}; this configuration would use {now}",
            stacklevel=3,
        )


def _finished(workspace: Workspace, recipe: CheckpointRecipe) -> bool:
    return (workspace.path / recipe.kind / recipe.digest).is_dir()


def _begun(workspace: Workspace, recipe: CheckpointRecipe) -> bool:
    """Say whether something would be lost if an artifact was made in another way."""
    folder = CheckpointFolder(workspace.partial(recipe))
    return folder.state.is_dir() or bool(saved(folder.progress))


def _with_fewer_steps(workspace: Workspace, recipe: CheckpointRecipe) -> list[Artifact[CheckpointFacts]]:
    """List the finished checkpoints of the same run with fewer steps, most steps first, by what their manifests say."""
    wanted, steps = _without_steps(recipe.identity)
    tokens = [parent.digest for parent in recipe.parents if parent.kind != recipe.kind]
    found = []
    for path in (workspace.path / recipe.kind).glob(f"[!.]*/{MANIFEST}"):
        try:
            manifest = read_json(path)
            identity, done = _without_steps(manifest["identity"])
            parents = [parent["digest"] for parent in manifest["parents"] if parent["kind"] != recipe.kind]
            whole = manifest["stage_version"] == recipe.version and f"state/{RUN}" in manifest["files"]
            if whole and identity == wanted and parents == tokens and done < steps:
                found.append((done, read_manifest(path.parent, CheckpointFacts)))
        except (OSError, ValueError, KeyError, TypeError, ArtifactError):  # imported, or damaged: nothing to go on from
            continue
    return [of for _, of in sorted(found, key=lambda of: (of[0], of[1].digest), reverse=True)]


def _without_steps(identity: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    training = dict(identity["training"])
    steps = int(training.pop("steps"))
    return {**identity, "training": training}, steps


def _is_sound(checkpoint: Artifact[CheckpointFacts]) -> bool:
    try:
        open_artifact(checkpoint.path, CheckpointFacts)
    except ArtifactError as error:
        warnings.warn(f"not going on from {checkpoint.kind}/{checkpoint.digest}: {error}", stacklevel=3)
        return False
    return True
