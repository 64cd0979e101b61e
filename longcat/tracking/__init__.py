"""MLflow tracking through a journal on disk: tracking never blocks a stage, and an outage loses no records.

Every call appends an event to `workspace/tracking/RUN.jsonl` and returns. One thread forwards the events in order, in
batches, with back-off; the offset it has reached is stored beside the journal. Points carry their own step and time, so
sending them twice stores them once. Events that could not be sent by the end of a run are sent by `sync` or by the next
run; those that MLflow refuses are kept in `tracking/refused`, and the rest is sent. Only this package imports mlflow.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from longcat.artifact import Artifact, Workspace, write_json
from longcat.best_effort import Service, reason
from longcat.config import PipelineConfig
from longcat.disk import sync as sync_file
from longcat.errors import Cancelled, DataError, TrackingError
from longcat.interchange.checkpoint_folder import model_folder
from longcat.provenance import git_commit
from longcat.redaction import redact, redact_tree
from longcat.stores import sqlite_path, sqlite_url
from longcat.tracking.forwarding import Forwarder, Verdict, import_mlflow, prepare_store, verdict
from longcat.tracking.journal import (
    Journal,
    Sent,
    close_abandoned,
    forget_what_was_sent,
    parse,
    read_lines,
    refused_path,
    set_line_aside,
)

POINTS_AT_ONCE = 500
START_S = 15.0
"""Seconds that the end of a run waits until MLflow is imported and its store in the workspace made."""
END_S, END_SHARE = 2.0, 0.01
"""Seconds that it then waits for MLflow, or this share of the run's time if that is more."""
_EVENTS_AT_ONCE = 200
_prepared = set[Path]()
_written_here = set[Path]()
"""Journals of runs in this process that have not ended."""
_BACK_OFF_S = (0.5, 1.0, 2.0, 5.0)
_PACKAGES = ("torch", "torch_npu", "prefect", "mlflow", "datasets", "tokenizers", "transformers", "lm_eval")


def tracking_uri(workspace: Workspace) -> str:
    """Return `MLFLOW_TRACKING_URI`, or the URI of an SQLite store in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(store_path(workspace))


def store_path(workspace: Workspace) -> Path:
    """Return the file of the workspace's own store."""
    return workspace.path / "mlflow.db"


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
        _written_here.add(self._journal.path)
        self._sender = Sender(self._journal, workspace)
        self._journal.append(
            "start", "pipeline", experiment=self.experiment, name=name, parent=None, time=time.time(), tags=_tags()
        )
        self._journal.append("params", "pipeline", params=_flatten(config.model_dump(mode="json")))
        copy = self._journal.path.with_suffix(".config.json")
        with contextlib.suppress(OSError):  # the journal says it
            write_json(copy, redact_tree(config.model_dump(mode="json")))
            self._journal.append("artifact", "pipeline", path=str(copy), folder="config")
        # events left over from earlier runs are sent after our own first events
        self._sender.start(then=lambda: _send_others(workspace, self._sender.service))

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

    def close(self, status: str) -> str | None:
        """End the parent run and wait a bounded time for MLflow; returns what is to be said of unsent events."""
        self._journal.append("end", "pipeline", status=status, time=time.time())
        try:
            return self._sender.finish(time.monotonic() - self._began)
        finally:
            self._journal.close()
            _written_here.discard(self._journal.path)

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


class Sender:
    """Forwarder of one journal to MLflow, in a background thread."""

    def __init__(self, journal: Journal | Path, workspace: Workspace) -> None:
        self.journal = journal if isinstance(journal, Journal) else Journal(journal)
        self.path = self.journal.path
        self.uri, self.workspace = tracking_uri(workspace), workspace
        self.service = Service(
            "MLflow",
            self.uri,
            f"the run goes on, and its records are kept in {self.path} until they are sent, at the latest by the next "
            "run or by `longcat sync`",
        )
        self._sent = Sent.of(self.path)
        self._finish, self._given_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mlflow-sender")
        self._forwarder: Forwarder | None = None
        self._then: Callable[[], object] | None = None
        self._connected_at: float | None = None
        self._refused: dict[str, str] = {}

    @property
    def run_ids(self) -> Mapping[str, str]:
        """Return MLflow's run ids by journal key."""
        return dict(self._sent.run_ids)

    @property
    def unsent_bytes(self) -> int:
        """Return how much of the journal has still to be sent."""
        return self.path.stat().st_size - self._sent.offset if self.path.exists() else 0

    def start(self, then: Callable[[], object] = lambda: None) -> None:
        """Start forwarding in the background; `then` is called once, after the first events have been sent."""
        self._then = then
        self._thread.start()

    def finish(self, run_s: float) -> str | None:
        """Wait until all events are sent, and return what is to be said if they are not.

        MLflow may take `END_S` seconds, or `END_SHARE` of the run's time unless it has failed before; what it takes to
        import it and to make a store in the workspace comes on top, `START_S` at most.

        Args:
            run_s: time since the run began, in seconds.
        """
        self._finish.set()
        began = time.monotonic()
        while self._thread.is_alive():
            now = time.monotonic()
            if self.service.away:
                over = now - began > END_S
            elif self._connected_at is None:
                over = now - began > START_S
            else:
                over = now - max(began, self._connected_at) > max(END_S, END_SHARE * run_s)
            if over:
                break
            self._thread.join(0.05)
        self._given_up.set()
        left = self.unsent_bytes
        if lost := self.journal.waiting:
            text = f"{lost} records of this run are in no journal, because {self.path} could not be written"
        elif left > 0:
            why = f"failed ({self.service.last_error})" if self.service.away else "has not taken all records yet"
            text = (
                f"MLflow at {self.service.address} {why}; {left} bytes of records are kept in {self.path} and will be "
                "sent by the next run or by `longcat sync`"
            )
        else:
            return None
        if not self.service.away:  # else it has been told
            logging.getLogger("longcat").warning(text)
        return text

    def send_all(self) -> None:
        """Forward all events now.

        Raises:
            Exception: whatever MLflow raises, unless it refuses an event for good, which is set aside.
        """
        self._connect()
        while lines := read_lines(self.path, self._sent.offset, _EVENTS_AT_ONCE):
            try:
                sync_file(self.path)  # MLflow is never told what a failing disk may take from the journal again
            except OSError:
                return  # whoever writes to such a disk tells of it
            try:
                for offset, line in lines:
                    self._forward(line)
                    self._sent.offset = offset
            finally:
                self._sent.save(self.path)

    def complete(self) -> None:
        """Note that the journal has been sent and gets no further events, so that nobody reads it again."""
        self._sent.complete = True
        self._sent.save(self.path)

    def _run(self) -> None:
        failures = 0
        while True:
            ending = self._finish.is_set()
            try:
                self.send_all()
                self.service.answered()
                failures = 0
                if self._then is not None and not ending:
                    then, self._then = self._then, None
                    then()
                if ending:
                    return
            except Exception as error:  # the run goes on whatever MLflow or its store raise
                self.service.failed(error, answered=verdict(error) is not Verdict.UNREACHED)
                failures += 1
                if self._given_up.wait(0.5 if ending else 0):
                    return
                self._pause(_BACK_OFF_S[min(failures, len(_BACK_OFF_S)) - 1])
                continue
            self._pause(0.5)

    def _pause(self, seconds: float) -> None:
        self._finish.wait(seconds)

    def _connect(self) -> Forwarder:
        if self._forwarder is None:
            if prepare(self.workspace):
                self._sent = Sent()
            self._forwarder = Forwarder(self.uri, self.workspace.path / "mlartifacts", self.path.stem)
            self._connected_at = time.monotonic()
        return self._forwarder

    def _forward(self, line: bytes) -> None:
        try:
            event = parse(line)
        except ValueError as error:
            self._set_aside("", f"the line cannot be read: {error}", {"line": line.decode(errors="replace")})
            return
        for refused, why in self._connect().forward(event, self._sent.run_ids):
            self._set_aside(event["key"], why, {"event": refused})

    def _set_aside(self, key: str, why: str, content: Mapping[str, Any]) -> None:
        set_line_aside(self.path, why, content)
        if key not in self._refused:
            self._refused[key] = why
            logging.getLogger("longcat").warning(
                "MLflow at %s takes no record of %s in the journal %s (%s); such records are kept in %s, and all others "
                "are sent",
                self.service.address,
                f"the run {self._sent.run_ids.get(key, 'that was never started')} ({key})" if key else "an unknown run",
                self.path.name,
                why,
                refused_path(self.path),
            )  # fmt: skip


def metric_histories(uri: str, run_id: str, keys: Iterable[str]) -> dict[str, list[float]]:
    """Read the values that a run has logged under the given names, in the order of steps; missing names are left out.

    Of a step that was done again, which has several values, the last one logged counts.

    Args:
        uri: tracking server or store, as for MLFLOW_TRACKING_URI.
        run_id: MLflow's id of the run.
        keys: names of metrics.

    Raises:
        DataError: the store cannot be reached, or has no such run.
    """
    store = sqlite_path(uri)
    if store is not None and not store.is_file():  # MLflow would create one
        raise DataError(
            f"there is no MLflow store at {store}; give its address by --tracking-uri or MLFLOW_TRACKING_URI"
        )
    mlflow = import_mlflow()
    from mlflow.exceptions import MlflowException

    try:
        client = mlflow.MlflowClient(uri)
        known = client.get_run(run_id).data.metrics
        histories = {key: client.get_metric_history(run_id, key) for key in keys if key in known}
    except MlflowException as error:
        raise DataError(
            f"MLflow run {run_id} cannot be read from {redact(uri)}: {redact(str(error)).splitlines()[0]}"
        ) from None
    return {
        key: list({p.step: p.value for p in sorted(points, key=lambda p: (p.step, p.timestamp))}.values())
        for key, points in histories.items()
    }


def sync(workspace: Workspace) -> int:
    """Send unsent events of earlier runs, and mark runs whose process is gone as killed; returns how many were sent.

    What MLflow refuses for good is set aside, with a warning; a journal that it cannot take now does not stop the others.

    Raises:
        TrackingError: MLflow cannot be reached, or could not take everything.
        WorkspaceBusyError: another process is writing in the workspace; a run sends what is left there by itself.
    """
    with workspace.lease():
        return _send_what_is_left(workspace)


def _send_what_is_left(workspace: Workspace) -> int:
    """Send all journals but those of runs in this process, which holds the lease; see `sync`."""
    sent, problem = 0, None
    if store_path(workspace).exists():
        prepare(workspace)
    for path in sorted((workspace.path / "tracking").glob("*.jsonl")):
        state = Sent.of(path)
        if (state.complete and state.offset == path.stat().st_size) or path in _written_here:
            continue
        close_abandoned(path)
        sender = Sender(path, workspace)
        try:
            if sender.unsent_bytes > 0:
                sender.send_all()
                sent += 1
            sender.complete()
        except Exception as error:
            unreached = verdict(error) is Verdict.UNREACHED
            problem = TrackingError(
                f"MLflow at {sender.service.address} {'could not be reached' if unreached else 'answered with an error'} "
                f"({reason(error)}); the records are kept in {path}"
            )
            if unreached:
                break
    if problem is not None:
        raise problem
    return sent


def prepare(workspace: Workspace) -> bool:
    """Make the workspace's own store whole; returns whether it is another one now, which is sent everything again.

    It is looked at once in a process.
    """
    store = store_path(workspace)
    if tracking_uri(workspace) != sqlite_url(store) or (store in _prepared and store.exists()):
        return False
    renewed = prepare_store(store)
    _prepared.add(store)
    if renewed:
        forget_what_was_sent(workspace.path / "tracking")
    return renewed


def _send_others(workspace: Workspace, service: Service) -> None:
    """Send what earlier runs have left, in the background of this one."""
    try:
        _send_what_is_left(workspace)
    except TrackingError as error:
        service.failed(error, answered=True)


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
