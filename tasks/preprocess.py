"""Prefect task of the preprocessing stage: from the corpus to token shards."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.states import State

from longcat.artifact import Artifact, Workspace, write_json
from longcat.config import PipelineConfig, SourceConfig
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

SETTINGS = ("corpus",)
"""Settings that explain what the run shows."""
_PROFILE: tuple[str, ...] = ("licence", "documents", "skipped")


@stage_task
def preprocess(config: PipelineConfig, workspace: Workspace, tracker: Tracker) -> State[Artifact[TokensFacts]]:
    """Read, clean, tokenise and pack the corpus."""

    def publish(run: StageRun, tokens: Artifact[TokensFacts]) -> None:
        for settings, found in zip(config.corpus.sources, tokens.facts.sources, strict=True):
            source_type, place = place_of(settings)
            profile = {name: found[name] for name in _PROFILE if name in found}
            run.log_data(found["name"], digest_of(found), place, "corpus", profile, source_type)
        # MLflow has outputs for models only: the tokens are the input of the stages that follow, and named by a tag here
        run.set_tags({"output.tokens": tokens.digest, "output.uri": tokens.path.as_uri()})
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

    return run_stage("preprocess", tracker, work, publish, config, SETTINGS, CARD_HTML)


def place_of(source: SourceConfig) -> tuple[str, dict[str, str]]:
    """Return what kind of place a source of text is, and where, in MLflow's words."""
    if source.kind == "hub":
        return "hugging_face", {"path": str(source.name), "revision": source.revision, "split": source.split}
    if source.kind == "files":
        path = str(source.path)
        if "://" in path:
            return path.partition("://")[0], {"uri": path}
        return "local", {"uri": Path(path).expanduser().absolute().as_uri()}
    return "local", {"uri": f"{source.kind}:{source.package or source.language or sys.version.split()[0]}"}


def digest_of(found: Mapping[str, Any]) -> str:
    """Return what stands for the content of a source, from the facts of the tokens."""
    pin = str(found.get("sha256") or found.get("revision") or "")
    return pin if len(pin) in (40, 64) else hashlib.sha256(pin.encode()).hexdigest()
