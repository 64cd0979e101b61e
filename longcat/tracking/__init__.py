"""MLflow tracking through a journal on disk: tracking never blocks a stage, and an outage loses no records.

Every call appends an event to `workspace/tracking/RUN.jsonl` and returns. One thread forwards the events in order, in
batches, with back-off; the offset it has reached is stored beside the journal. Points carry their own step and time, so
sending them twice stores them once. Events that could not be sent by the end of a run are sent by `sync` or by the next
run; those that MLflow refuses are kept in `tracking/refused`, and the rest is sent. Only this package imports mlflow.
"""

from __future__ import annotations

import contextlib
import json
import platform
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from longcat.artifact import Artifact, Workspace, write_json
from longcat.config import PipelineConfig
from longcat.environment import write_environment
from longcat.errors import Cancelled
from longcat.interchange.checkpoint_folder import model_folder
from longcat.provenance import git_commit
from longcat.redaction import redact, redact_tree
from longcat.tracking.journal import Journal
from longcat.tracking.sender import Sender
from longcat.tracking.store import tracking_uri
from longcat.tracking.sync import send_others, written_here

POINTS_AT_ONCE = 500
_PACKAGES = ("torch", "torch_npu", "prefect", "mlflow", "datasets", "tokenizers", "transformers", "lm_eval")


def model_name(config: PipelineConfig) -> str:
    """Return the name that checkpoints of a configuration are registered by, as versions of one model."""
    return f"longcat-{config.preset}"


class Tracker:
    """Tracking of one pipeline run: a parent run and a child run for each stage.

    Whoever makes one holds the lease of the workspace until it is closed.
    """

    def __init__(self, workspace: Workspace, config: PipelineConfig, name: str) -> None:
        self._began = time.monotonic()
        self.workspace, self.uri, self.experiment = workspace, tracking_uri(workspace), config.experiment
        self._journal = Journal(
            workspace.path / "tracking" / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}.jsonl"
        )
        written_here.add(self._journal.path)
        self._sender = Sender(self._journal, workspace)
        self._journal.append(
            "start", "pipeline", experiment=self.experiment, name=name, parent=None, time=time.time(), tags=_tags()
        )
        self._journal.append("params", "pipeline", params=_flatten(config.model_dump(mode="json")))
        copy = self._journal.path.with_suffix(".config.json")
        with contextlib.suppress(OSError):  # the journal says it
            write_json(copy, redact_tree(config.model_dump(mode="json")))
            self._journal.append("artifact", "pipeline", path=str(copy), folder="config")
            about = write_environment(self._journal.path, config.accelerator)
            self._journal.append("artifact", "pipeline", path=str(about), folder="config")
        # events left over from earlier runs are sent after our own first events
        self._sender.start(then=lambda: send_others(workspace, self._sender.service))

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[StageRun]:
        """Open a child run; it ends as finished, failed or killed according to how the block ends."""
        key = f"stage:{name}"
        self._journal.append(
            "start",
            key,
            experiment=self.experiment,
            name=name,
            parent="pipeline",
            time=time.time(),
            tags={"stage": name},
        )
        try:
            yield StageRun(self._journal, key)
        except BaseException as error:
            killed = isinstance(error, Cancelled | KeyboardInterrupt) or not isinstance(error, Exception)
            self._journal.append("tags", key, tags={"error": redact(f"{type(error).__name__}: {error}")[:4000]})
            self._journal.append("end", key, status="KILLED" if killed else "FAILED", time=time.time())
            raise
        self._journal.append("end", key, status="FINISHED", time=time.time())

    def log_metrics(self, figures: Mapping[str, float]) -> None:
        """Log figures of the whole pipeline in the parent run."""
        StageRun(self._journal, "pipeline").log_metrics(figures)

    def log_artifact(self, path: Path) -> None:
        """Log a file of the whole pipeline in the parent run; it must stay in place until it is sent."""
        StageRun(self._journal, "pipeline").log_artifact(path)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the parent run."""
        StageRun(self._journal, "pipeline").set_tags(tags)

    def close(self, status: str) -> str | None:
        """End the parent run and wait a bounded time for MLflow; returns what is to be said of unsent events."""
        self._journal.append("end", "pipeline", status=status, time=time.time())
        try:
            return self._sender.finish(time.monotonic() - self._began)
        finally:
            self._journal.close()
            written_here.discard(self._journal.path)

    def run_id(self, stage: str | None = None) -> str | None:
        """Return MLflow's id of a stage's run, or of the parent run; None while MLflow has not been reached."""
        return self._sender.run_ids.get("pipeline" if stage is None else f"stage:{stage}")


@dataclass(frozen=True)
class StageRun:
    """Logging interface of one stage's run; every call returns at once."""

    _journal: Journal
    _key: str

    def log_records(self, records: list[dict[str, Any]]) -> None:
        """Log records of metrics.jsonl: every number but `step`, `time` and `attempt` becomes a point."""
        points = [
            [name, float(value), int(record["time"] * 1000), int(record["step"])]
            for record in records
            for name, value in record.items()
            if name not in ("step", "time", "attempt") and isinstance(value, int | float)
        ]
        for start in range(0, len(points), POINTS_AT_ONCE):
            self._journal.append("points", self._key, points=points[start : start + POINTS_AT_ONCE])

    def log_metrics(self, figures: Mapping[str, float]) -> None:
        """Log single figures at step 0."""
        now = int(time.time() * 1000)
        self._journal.append("points", self._key, points=[[name, float(v), now, 0] for name, v in figures.items()])

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, flattened to dotted names."""
        self._journal.append("params", self._key, params=_flatten(params))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file or a folder; it must stay in place until it is sent."""
        self._journal.append("artifact", self._key, path=str(path), folder=folder)

    def log_input(self, artifact: Artifact[Any], context: str) -> None:
        """Log an artifact as data-set input, identified by its digest."""
        self._journal.append(
            "input",
            self._key,
            name=artifact.kind,
            digest=artifact.digest[:32],
            source=str(artifact.path),
            context=context,
        )

    def register_model(self, name: str, checkpoint: Artifact[Any]) -> None:
        """Register the checkpoint as a version of a model, with alias `latest-checkpoint`; once per digest."""
        self._journal.append(
            "model",
            self._key,
            name=name,
            digest=checkpoint.digest,
            path=str(model_folder(checkpoint.path)),
            time=time.time(),
        )

    def judge_model(self, name: str, checkpoint: Artifact[Any], tags: Mapping[str, str], *, champion: bool) -> None:
        """Record what is known of the checkpoint as tags of its version of a model, which is registered if it is not yet.

        Args:
            name: of the model.
            checkpoint: the version.
            tags: scores and lineage.
            champion: give the version the alias `champion`, unless a later decision has given it to another one.
        """
        self._journal.append(
            "judged",
            self._key,
            name=name,
            digest=checkpoint.digest,
            path=str(model_folder(checkpoint.path)),
            tags=dict(tags),
            champion=champion,
            time=time.time(),
        )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._journal.append("tags", self._key, tags=dict(tags))


def _tags() -> dict[str, str]:
    tags = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "mlflow.source.name": "longcat",
    }
    if commit := git_commit():
        tags["mlflow.source.git.commit"] = commit
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            tags[f"version.{package}"] = metadata.version(package)
    return tags


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat
