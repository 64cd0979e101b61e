"""MLflow tracking through a journal on disk: tracking never blocks a stage, and an outage loses no records.

Every call appends an event to `workspace/tracking/RUN.jsonl` and returns. One thread forwards the events in order, in
batches, with back-off; the offset it has reached is stored beside the journal. Points carry their own step and time, so
sending them twice stores them once. Events that could not be sent by the end of a run are sent by `sync` or by the next
run; those that MLflow refuses are kept in `tracking/refused`, and the rest is sent. Only this package imports mlflow.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from longcat.artifact import Artifact, Workspace, write_json
from longcat.config import PipelineConfig
from longcat.environment import write_environment
from longcat.errors import Cancelled
from longcat.interchange.checkpoint_folder import model_folder
from longcat.redaction import redact, redact_tree
from longcat.tracking.journal import Journal
from longcat.tracking.machine import watched
from longcat.tracking.names import run_name
from longcat.tracking.origin import machine_tags, origin_tags
from longcat.tracking.sender import Sender
from longcat.tracking.store import tracking_uri
from longcat.tracking.sync import send_others, written_here

POINTS_AT_ONCE = 500
_NOTE = "mlflow.note.content"


def model_name(config: PipelineConfig) -> str:
    """Return the name that checkpoints of a configuration are registered by, as versions of one model."""
    return f"longcat-{config.preset}"


class Tracker:
    """Tracking of one pipeline run: a parent run and a child run for each stage, named by what was run and overridden.

    Whoever makes one holds the lease of the workspace until it is closed.
    """

    def __init__(
        self,
        workspace: Workspace,
        config: PipelineConfig,
        flow: str,
        config_file: str | None = None,
        overrides: Sequence[str] = (),
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin the parent run.

        Args:
            workspace: has the journal.
            config: the whole configuration, which the parent run gets as parameters.
            flow: what is run.
            config_file: that the configuration was read from, for names.
            overrides: `KEY=VALUE`, for names and the tag `overrides`.
            params: parameters of the parent run, where they are not those of the configuration.
        """
        self._began = time.monotonic()
        self.workspace, self.uri, self.experiment = workspace, tracking_uri(workspace), config.experiment
        self._config, self._config_file, self._overrides = config, config_file, overrides
        self._journal = Journal(
            workspace.path / "tracking" / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}.jsonl"
        )
        written_here.add(self._journal.path)
        self._sender = Sender(self._journal, workspace)
        self._tags = origin_tags() | {"preset": config.preset}
        if config_file is not None:
            self._tags["config_file"] = config_file
        if overrides:
            self._tags["overrides"] = " ".join(overrides)
        self._start("pipeline", self.name_of(flow), None, machine_tags())
        if params is None:
            self._append_config(config)
        else:
            self._journal.append("params", "pipeline", params=_flatten(params))
        # events left over from earlier runs are sent after our own first events
        self._sender.start(then=partial(send_others, workspace, self._sender.service))

    def _append_config(self, config: PipelineConfig) -> None:
        """Record the configuration, and what else the results depend on."""
        self._journal.append("params", "pipeline", params=_flatten(config.model_dump(mode="json")))
        copy = self._journal.path.with_suffix(".config.json")
        with contextlib.suppress(OSError):  # the journal says it
            write_json(copy, redact_tree(config.model_dump(mode="json")))
            self._journal.append("artifact", "pipeline", path=str(copy), folder="config")
            about = write_environment(self._journal.path, config.accelerator)
            self._journal.append("artifact", "pipeline", path=str(about), folder="config")

    @property
    def command(self) -> str | None:
        """Return the command that was given; None where none of longcat's was."""
        return self._tags.get("command")

    @property
    def name(self) -> str:
        """Return the name of its journal, which no other has."""
        return self._journal.path.stem

    def name_of(self, part: str) -> str:
        """Return what the run of a flow or a stage is called."""
        return run_name(part, self._config.preset, self._config_file, self._overrides)

    def _start(self, key: str, name: str, parent: str | None, tags: Mapping[str, str]) -> None:
        self._journal.append(
            "start",
            key,
            experiment=self.experiment,
            name=name,
            parent=parent,
            time=time.time(),
            tags={**self._tags, **tags},
        )

    @contextlib.contextmanager
    def stage(self, name: str, shown: str | None = None) -> Iterator[StageRun]:
        """Open a child run; it ends as finished, failed or killed according to how the block ends.

        Args:
            name: of the stage, by which its id is asked for.
            shown: what the run is called, if not by the name of the stage as the parent is by that of the flow.
        """
        key = f"stage:{name}"
        self._start(key, shown or self.name_of(name), "pipeline", {"stage": name})
        try:
            yield StageRun(self._journal, key)
        except BaseException as error:
            killed = isinstance(error, Cancelled | KeyboardInterrupt) or not isinstance(error, Exception)
            self._journal.append("tags", key, tags={"error": redact(f"{type(error).__name__}: {error}")[:4000]})
            self._journal.append("end", key, status="KILLED" if killed else "FAILED", time=time.time())
            raise
        self._journal.append("end", key, status="FINISHED", time=time.time())

    @property
    def run(self) -> StageRun:
        """Return the interface of the parent run."""
        return StageRun(self._journal, "pipeline")

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

    @property
    def experiment_id(self) -> str | None:
        """Return MLflow's id of the experiment; None while MLflow has not been reached."""
        return self._sender.experiment_id


@dataclass(frozen=True)
class StageRun:
    """Logging interface of a run; every call returns at once."""

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

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table that MLflow shows as one; `name` ends with `.json`."""
        self._journal.append("table", self._key, name=name, columns=list(columns), rows=[list(row) for row in rows])

    def log_input(self, artifact: Artifact[Any], context: str, profile: Mapping[str, Any] | None = None) -> None:
        """Log an artifact as a data set that the run reads, identified by its digest."""
        self.log_data(artifact.kind, artifact.digest, {"uri": artifact.path.as_uri()}, context, profile)

    def log_data(
        self,
        name: str,
        digest: str,
        source: Mapping[str, str],
        context: str,
        profile: Mapping[str, Any] | None = None,
        source_type: str = "local",
    ) -> None:
        """Log a data set that the run reads.

        Args:
            name: for people.
            digest: of its content; its first 36 characters are kept.
            source: where it is, in MLflow's words: `uri`, or `path` of a data set of the hub.
            context: what it is read for.
            profile: what is known of its size.
            source_type: `local`, `http`, `hugging_face` and so on.
        """
        self._journal.append(
            "input",
            self._key,
            name=name,
            digest=digest,
            source=dict(source),
            context=context,
            profile=dict(profile or {}),
            source_type=source_type,
        )

    def register_model(
        self,
        name: str,
        checkpoint: Artifact[Any],
        *,
        description: str = "",
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
    ) -> None:
        """Register a checkpoint that the run made as a version of a model, with alias `latest-checkpoint`; once per digest.

        Args:
            name: of the model.
            checkpoint: the version.
            description: Markdown.
            params: what it was made with; flattened to dotted names.
            metrics: what is known of it.
            tags: of the version.
            step: that it was made at.
        """
        self._model_event(
            "model",
            name,
            checkpoint,
            description=redact(description),
            params=redact_tree(_flatten(params or {})),
            metrics=dict(metrics or {}),
            tags=redact_tree(dict(tags or {})),
            step=step,
        )

    def use_model(self, name: str, checkpoint: Artifact[Any], metrics: Mapping[str, float] | None = None) -> None:
        """Log a checkpoint that the run takes, and what it measures of it."""
        self._model_event("model input", name, checkpoint, metrics=dict(metrics or {}))

    def judge_model(
        self,
        name: str,
        checkpoint: Artifact[Any],
        tags: Mapping[str, str],
        *,
        champion: bool,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Record what is known of the checkpoint as tags of its version of a model, which is registered if it is not yet.

        Args:
            name: of the model.
            checkpoint: the version.
            tags: scores and lineage.
            champion: give the version the alias `champion`, unless a later decision has given it to another one.
            metrics: scores, for the logged model.
        """
        self._model_event(
            "judged", name, checkpoint, tags=redact_tree(dict(tags)), champion=champion, metrics=dict(metrics or {})
        )

    def _model_event(self, event: str, name: str, checkpoint: Artifact[Any], **values: Any) -> None:
        path = str(model_folder(checkpoint.path))
        self._journal.append(
            event, self._key, name=name, digest=checkpoint.digest, path=path, time=time.time(), **values
        )

    def watch_machine(self, folder: Path) -> contextlib.AbstractContextManager[None]:
        """Log what this machine and its accelerators are busy with while the context is open, as MLflow's system metrics.

        Args:
            folder: on the disk that is looked at.
        """
        steps = self._journal.looks[self._key]
        return watched(lambda points: self._journal.append("points", self._key, points=points), folder, steps)

    def set_note(self, markdown: str) -> None:
        """Set the description that the run's page shows."""
        self.set_tags({_NOTE: markdown})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._journal.append("tags", self._key, tags=dict(tags))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat
