"""Evaluations by name: by their own folder or digest, or by those of the checkpoint that was scored."""

from __future__ import annotations

from pathlib import Path

from longcat.artifact import MANIFEST, Artifact, Workspace, finished_at, open_artifact, read_manifest
from longcat.errors import ArtifactError, ConfigError
from longcat.evaluation.stage import EvaluationFacts
from longcat.inference.opening import digest_of, find_checkpoint
from longcat.unpacking import read_json

_LEAST = 4
"""Characters that a digest is known by."""


def find_evaluation(what: str, workspace: Workspace) -> Artifact[EvaluationFacts] | None:
    """Return an evaluation, or the newest one of a checkpoint; None for a checkpoint that has none.

    Args:
        what: folder of an evaluation or of a checkpoint, or the beginning of a digest in the workspace.
        workspace: where they are.

    Raises:
        ConfigError: there is neither an evaluation nor a checkpoint of this name, or several.
        ArtifactError: the evaluation is damaged.
    """
    folder = Path(what).expanduser()
    if _kind(folder) == "evaluation":
        return open_artifact(folder.resolve(), EvaluationFacts)
    found = []
    if len(what) >= _LEAST and set(what) <= set("0123456789abcdef"):
        found = [path for path in sorted((workspace.path / "evaluation").glob(f"{what}*")) if path.is_dir()]
    if len(found) == 1:
        return open_artifact(found[0], EvaluationFacts)
    if found:
        raise ConfigError(f"{what}: several evaluations begin so: {', '.join(path.name for path in found)}")
    checkpoint = digest_of(find_checkpoint(what, workspace))
    scored = []
    for path in (workspace.path / "evaluation").glob("[!.]*"):
        try:
            artifact = read_manifest(path, EvaluationFacts)
        except ArtifactError:  # of an earlier version
            continue
        if any(one["kind"] == "checkpoint" and one["digest"] == checkpoint for one in artifact.manifest["parents"]):
            scored.append(artifact)
    if not scored:
        return None
    newest = max(scored, key=lambda one: (finished_at(one.manifest) or 0.0, one.digest))
    return open_artifact(newest.path, EvaluationFacts)


def _kind(folder: Path) -> str | None:
    try:
        return str(read_json(folder / MANIFEST)["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
