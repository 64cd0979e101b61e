"""Decisions on the champion of a workspace: which checkpoint it is, and why.

`champions/MODEL.json` has every decision, oldest first. It is the truth, and MLflow's alias `champion` follows it when
MLflow can be reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.errors import ArtifactError
from longcat.unpacking import read_json

_FOLDER = "champions"


@dataclass(frozen=True)
class Decision:
    """What the gates have said of a checkpoint, and its scores."""

    model: str
    """Name that MLflow knows the model by."""
    checkpoint: str
    """Digest."""
    evaluation: str
    """Digest of the evaluation artifact that has the scores."""
    promoted: bool
    """Whether it met all gates, and so became the champion."""
    passed: list[str]
    """What was judged well, in words."""
    failed: list[str]
    """And what was not."""
    scores: dict[str, float]
    """By `SUBJECT/METRIC`."""
    measured: dict[str, Any]
    """What the scores of each subject were made with; other scores can be set beside them only where it is the same."""
    decided: float
    """Unix time, in seconds."""

    @property
    def reason(self) -> str:
        """Return why, in a sentence."""
        if self.promoted:
            return f"{self.checkpoint[:12]} is the champion of {self.model}: {'; '.join(self.passed)}"
        return f"{self.checkpoint[:12]} is not the champion of {self.model}: {'; '.join(self.failed)}"


def decisions(workspace: Path, model: str) -> list[Decision]:
    """Read all decisions about a model, oldest first.

    Raises:
        ArtifactError: their file is unreadable.
    """
    path = decisions_path(workspace, model)
    if not path.is_file():
        return []
    try:
        return [Decision(**one) for one in read_json(path)]
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"{path} is unreadable ({error}); restore it from a copy, or delete it to begin without a champion"
        ) from None


def champion(workspace: Path, model: str) -> Decision | None:
    """Return the decision that made the present champion of a model; None if there is none.

    Raises:
        ArtifactError: the file of decisions is unreadable.
    """
    return next((one for one in reversed(decisions(workspace, model)) if one.promoted), None)


def champions(workspace: Path) -> list[Decision]:
    """Return the decisions that made the present champions of all models.

    Raises:
        ArtifactError: a file of decisions is unreadable.
    """
    found = [champion(workspace, model) for model in _models(workspace)]
    return [one for one in found if one is not None]


def last_decision(workspace: Path, evaluation: str) -> Decision | None:
    """Return the last decision about the scores of an evaluation artifact, by its digest; None if there is none.

    Raises:
        ArtifactError: a file of decisions is unreadable.
    """
    found = [one for model in _models(workspace) for one in decisions(workspace, model) if one.evaluation == evaluation]
    return max(found, key=lambda one: one.decided, default=None)


def decisions_path(workspace: Path, model: str) -> Path:
    """Return the file of the decisions about a model."""
    return workspace / _FOLDER / f"{model}.json"


def _models(workspace: Path) -> list[str]:
    return sorted(path.stem for path in (workspace / _FOLDER).glob("[!.]*.json"))
