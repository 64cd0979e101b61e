"""The champion of a workspace is decided on: a checkpoint that meets the gates becomes it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from longcat.artifact import MANIFEST, Artifact, Workspace, write_json
from longcat.config import PipelineConfig, identity
from longcat.config.evaluation import Gate
from longcat.corpus.documents import DOCUMENTS
from longcat.errors import GateError
from longcat.evaluation.decisions import Decision, champion, decisions, decisions_path
from longcat.evaluation.gates import Judgement, judge
from longcat.evaluation.suites import BUILT_IN
from longcat.unpacking import read_json

_NAMES = ("suites", "tasks", "ngram_order")
"""Settings that say what else is scored."""
_OF_BOTH = ("precision", "batch_sequences")
_OF_HELD_OUT = ("held_out_sequences", *_OF_BOTH)
"""Settings that scores of held-out text depend on."""


def decide(
    config: PipelineConfig, model: str, evaluation: Artifact[Any], checkpoint: Artifact[Any], workspace: Workspace
) -> Decision | None:
    """Judge a checkpoint by the gates of the configuration, and write the decision down; None without gates.

    The caller holds the lease of the workspace.

    Args:
        config: has the gates, and the settings of the evaluation.
        model: name that MLflow knows it by.
        evaluation: the scores, an `evaluation` artifact.
        checkpoint: that they are of.
        workspace: has the champion.

    Raises:
        ConfigError: a gate asks for a score that was not made.
        ArtifactError: the file of decisions is unreadable.
    """
    gates = config.evaluation.gates
    if not gates:
        return None
    scores = {name: value for name, value in evaluation.facts.figures.items() if value is not None}
    best = champion(workspace.path, model)
    measured = {subject: _measured(subject, config, evaluation, workspace) for subject in evaluation.facts.scores}
    known = None if best is None else best.scores
    judgements = judge(gates, scores, known)
    if best is not None:
        own = best.checkpoint == checkpoint.digest
        judgements = [
            _beside(best, gate, scores, measured, own) or one if gate.no_worse_than_champion else one
            for gate, one in zip(gates, judgements, strict=True)
        ]
    decision = Decision(
        model=model,
        checkpoint=checkpoint.digest,
        evaluation=evaluation.digest,
        promoted=all(one.passed for one in judgements),
        passed=[one.reason for one in judgements if one.passed],
        failed=[one.reason for one in judgements if not one.passed],
        scores={name: value for name, value in scores.items() if value == value},
        measured=measured,
        decided=time.time(),
    )
    path = decisions_path(workspace.path, model)
    path.parent.mkdir(exist_ok=True)
    write_json(path, [asdict(one) for one in (*decisions(workspace.path, model), decision)])
    return decision


def require(decision: Decision | None, workspace: Workspace, evaluation: Artifact[Any]) -> None:
    """Fail for a checkpoint that does not meet the gates.

    Raises:
        GateError: says which scores did not, who is champion, and where the scores are.
    """
    if decision is None or decision.promoted:
        return
    best = champion(workspace.path, decision.model)
    stays = "there is no champion" if best is None else f"{best.checkpoint[:12]} stays the champion"
    raise GateError(f"{decision.reason}; {stays}; the scores are in {evaluation.path / 'report.md'}")


def tags_of(decision: Decision | None, evaluation: Artifact[Any], checkpoint: Artifact[Any]) -> dict[str, str]:
    """Return what MLflow is to know of a version: its lineage, its scores, and what the gates have said."""
    parents = [*evaluation.manifest["parents"], *checkpoint.manifest.get("parents", ())]
    lineage = {f"lineage.{one['kind']}": str(one["digest"]) for one in parents if one["kind"] != "checkpoint"}
    scores = {f"score.{name}": f"{value:.6g}" for name, value in evaluation.facts.figures.items() if value is not None}
    verdict = {} if decision is None else {"gates": decision.reason}
    return verdict | {"lineage.evaluation": evaluation.digest} | lineage | scores


def _beside(
    best: Decision, gate: Gate, scores: Mapping[str, float], measured: Mapping[str, Any], own: bool
) -> Judgement | None:
    """Judge a score that cannot be set beside the champion's, or is its own; None for any other."""
    if own:  # it is scored again
        value = scores[gate.score]
        return Judgement(value == value, f"{gate.score} {value:.6g} is the champion's own")
    subject = gate.score.rpartition("/")[0]
    then, now = best.measured.get(subject), measured[subject]
    if gate.score not in best.scores or then == now:
        return None
    changed = [name for name in now if then is None or then.get(name) != now[name]]
    return Judgement(
        False,
        f"{gate.score} cannot be compared, as the champion's was made with another {' and another '.join(changed)}; "
        f"longcat evaluate --checkpoint {best.checkpoint[:12]} scores it again",
    )


def _measured(subject: str, config: PipelineConfig, evaluation: Artifact[Any], workspace: Workspace) -> dict[str, Any]:
    """Return what the scores of a subject depend on besides the checkpoint, as JSON values."""
    settings = identity(config.evaluation)
    if subject in BUILT_IN:  # a suite over held-out text
        found = {name: settings[name] for name in settings if name in _OF_HELD_OUT}
        found["held-out text"] = held_out_text(evaluation, workspace.path)
    else:
        found = {name: settings[name] for name in settings if name not in {*_OF_HELD_OUT, *_NAMES} or name in _OF_BOTH}
        tasks = evaluation.manifest["identity"].get("suites", {}).get("tasks", {})
        parts = [part for of in tasks.values() if isinstance(of, list) for part in of if part["name"] == subject]
        found["version of the task"] = [tasks.get("lm_eval"), tasks.get(subject, parts)]
    return json.loads(json.dumps(found))


def held_out_text(evaluation: Artifact[Any], workspace: Path) -> str | None:
    """Return a hash over the contents of the held-out documents, however they are tokenised; None if they are gone."""
    tokens = next((one["digest"] for one in evaluation.manifest["parents"] if one["kind"] == "tokens"), None)
    try:
        documents = read_json(workspace / "tokens" / str(tokens) / MANIFEST)["identity"]["documents"]
        table = np.load(workspace / "documents" / documents / DOCUMENTS)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return hashlib.sha256(np.sort(table["key"][table["held_out"]]).tobytes()).hexdigest()[:32]
