"""MLflow tracking through a journal on disk: tracking never blocks a stage, and an outage loses no records.

Every call appends an event to `workspace/tracking/RUN.jsonl` and returns. One thread forwards the events in order, in
batches, with back-off; the offset it has reached is stored beside the journal. Points carry their own step and time, so
sending them twice stores them once. Events that could not be sent by the end of a run are sent by `sync` or by the next
run. Only this file imports mlflow.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from longcat.artifact import Artifact, Workspace, write_json
from longcat.config import PipelineConfig
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.processes.environment import NO_TELEMETRY
from longcat.provenance import git_commit
from longcat.redaction import redact, redact_tree

POINTS_AT_ONCE = 500
FLUSH_S = 15.0
"""Seconds that the end of a run waits for MLflow without progress."""
_BACK_OFF_S = (0.5, 1.0, 2.0, 5.0)
_ENVIRONMENT = {
    **NO_TELEMETRY,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
_PACKAGES = ("torch", "torch_npu", "prefect", "mlflow", "datasets", "tokenizers", "transformers", "lm_eval")
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # opens the pages for training, not those for chat
OWNER_TAG, KEY_TAG = "longcat.owner", "longcat.key"
_OF_NUMBERS_OR_PLACES = ("points", "artifact", "model")
"""Events that are numbers, or that name files which are opened later."""


def tracking_uri(workspace: Workspace) -> str:
    """Return `MLFLOW_TRACKING_URI`, or the URI of an SQLite store in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace.path / 'mlflow.db'}"


class Tracker:
    """Tracking of one pipeline run: a parent run and a child run for each stage."""

    def __init__(self, workspace: Workspace, config: PipelineConfig, name: str) -> None:
        self.workspace, self.uri, self.experiment = workspace, tracking_uri(workspace), config.experiment
        self._journal = Journal(
            workspace.path / "tracking" / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}.jsonl"
        )
        self._sender = Sender(self._journal, self.uri, workspace.path / "mlartifacts")
        self._journal.append(
            "start", "pipeline", experiment=self.experiment, name=name, parent=None, time=time.time(), tags=_tags()
        )
        self._journal.append("params", "pipeline", params=_flatten(config.model_dump(mode="json")))
        write_json(self._journal.path.with_suffix(".config.json"), redact_tree(config.model_dump(mode="json")))
        self._journal.append(
            "artifact", "pipeline", path=str(self._journal.path.with_suffix(".config.json")), folder="config"
        )
        # events left over from earlier runs are sent after our own first events
        self._sender.start(then=lambda: sync(workspace))

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[StageRun]:
        """Open a child run; it ends as finished, failed or killed according to how the block ends."""
        from longcat.errors import Cancelled

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
        """End the parent run and wait a bounded time for MLflow; returns a warning if unsent events remain."""
        self._journal.append("end", "pipeline", status=status, time=time.time())
        return self._sender.finish()

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
            path=str(CheckpointFolder(checkpoint.path).huggingface),
        )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._journal.append("tags", self._key, tags=dict(tags))


class Journal:
    """Append-only file of tracking events."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def append(self, event: str, key: str, **values: Any) -> None:
        """Write one event, without secrets, and flush it to the operating system."""
        if event not in _OF_NUMBERS_OR_PLACES:
            values = redact_tree(values)
        line = json.dumps({"event": event, "key": key, **values})
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


@dataclass
class _Sent:
    """State of forwarding a journal: the offset reached, and the MLflow run of each key."""

    offset: int = 0
    run_ids: dict[str, str] = field(default_factory=dict)


class Sender:
    """Forwarder of one journal to MLflow, in a background thread."""

    def __init__(self, journal: Journal | Path, uri: str, artifacts: Path) -> None:
        self.path = journal if isinstance(journal, Path) else journal.path
        self.uri, self.artifacts = uri, artifacts
        self._state_path = self.path.with_suffix(".sent.json")
        self._sent = _Sent()
        if self._state_path.is_file():
            self._sent = _Sent(**json.loads(self._state_path.read_text()))
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mlflow-sender")
        self._client: Any = None
        self.last_error: str | None = None
        self._progress = time.monotonic()

    @property
    def run_ids(self) -> Mapping[str, str]:
        """Return MLflow's run ids by journal key."""
        return dict(self._sent.run_ids)

    def start(self, then: Callable[[], object] = lambda: None) -> None:
        """Start forwarding in the background; `then` is called once, after the first events have been sent."""
        self._then: Callable[[], object] | None = then
        self._thread.start()

    def finish(self) -> str | None:
        """Wait until all events are sent; after `FLUSH_S` seconds without progress give up and return a warning."""
        self._finish.set()
        self._progress = time.monotonic()
        while self._thread.is_alive() and time.monotonic() - self._progress < FLUSH_S:
            self._thread.join(0.05)
        left = self.path.stat().st_size - self._sent.offset
        if left <= 0:
            return None
        return (
            f"MLflow at {redact(self.uri)} could not be reached ({self.last_error}); {left} bytes of records are kept in "
            f"{self.path} and will be sent by the next run or by `longcat sync`"
        )

    def send_all(self) -> None:
        """Forward all events now; exceptions of MLflow are raised."""
        while batch := self._next():
            for offset, event in batch:
                self._forward(event)
                self._sent.offset = offset
            write_json(self._state_path, vars(self._sent))
            self._progress = time.monotonic()

    def _run(self) -> None:
        failures = 0
        while True:
            ending = self._finish.is_set()
            try:
                self.send_all()
                failures = 0
                if self._then is not None and not ending:
                    then, self._then = self._then, None
                    then()
                if ending:
                    return
            except Exception as error:  # training continues whatever MLflow or its store raise
                self.last_error = redact(f"{type(error).__name__}: {error}".splitlines()[0])[:300]
                self._client = None
                failures += 1
                if ending and time.monotonic() - self._progress > FLUSH_S:
                    return
                self._finish.wait(_BACK_OFF_S[min(failures, len(_BACK_OFF_S)) - 1]) if not ending else time.sleep(0.5)
                continue
            self._finish.wait(0.5)

    def _next(self) -> list[tuple[int, dict[str, Any]]]:
        with self.path.open("rb") as stream:
            stream.seek(self._sent.offset)
            data = stream.read()
        batch, offset = [], self._sent.offset
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            offset += len(line)
            batch.append((offset, json.loads(line)))
        return batch[:200]

    def _forward(self, event: dict[str, Any]) -> None:
        from mlflow.entities import Metric, Param

        client = self._connect()
        key, run_id = event["key"], self._sent.run_ids.get(event["key"])
        match event["event"]:
            case "start":
                self._sent.run_ids[key] = self._start(event)
            case "params":
                params = [Param(name, str(value)[:6000]) for name, value in event["params"].items()]
                for start in range(0, len(params), 100):
                    client.log_batch(run_id, params=params[start : start + 100])
            case "points":
                client.log_batch(run_id, metrics=[Metric(*point) for point in event["points"]])
            case "tags":
                for name, value in event["tags"].items():
                    client.set_tag(run_id, name, value)
            case "artifact":
                self._artifact(run_id, Path(event["path"]), event["folder"])
            case "input":
                self._input(run_id, event)
            case "model":
                self._model(run_id, event)
            case "end":
                client.set_terminated(run_id, event["status"], end_time=int(event["time"] * 1000))

    def _connect(self) -> Any:
        if self._client is None:
            for name, value in _ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            import mlflow

            mlflow.set_tracking_uri(self.uri)
            self._client = mlflow.MlflowClient(self.uri)
        return self._client

    def _start(self, event: dict[str, Any]) -> str:
        from mlflow.exceptions import MlflowException

        client, name = self._connect(), event["experiment"]
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            local = self.artifacts.as_uri() if self.uri.startswith("sqlite:") else None
            try:
                experiment_id = client.create_experiment(name, artifact_location=local, tags=_KIND)
            except MlflowException:  # another process was faster
                experiment_id = client.get_experiment_by_name(name).experiment_id
        else:
            experiment_id = experiment.experiment_id
        mark = f"{self.path.stem}/{event['key']}"
        # an earlier attempt may have created the run and died before recording it
        existing = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{mark}'", max_results=1)
        if existing:
            return str(existing[0].info.run_id)
        tags = {**event["tags"], KEY_TAG: mark, "mlflow.runName": event["name"]}
        if event["parent"]:
            tags["mlflow.parentRunId"] = self._sent.run_ids[event["parent"]]
        return str(client.create_run(experiment_id, start_time=int(event["time"] * 1000), tags=tags).info.run_id)

    def _artifact(self, run_id: str | None, path: Path, folder: str | None) -> None:
        client = self._connect()
        if path.is_dir():
            client.log_artifacts(run_id, str(path), folder)
        elif path.is_file():
            client.log_artifact(run_id, str(path), folder)

    def _input(self, run_id: str | None, event: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": Path(event["source"]).as_uri()})
        dataset = Dataset(event["name"], event["digest"], "local", source)
        self._connect().log_inputs(
            run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", event["context"])])]
        )

    def _model(self, run_id: str | None, event: dict[str, Any]) -> None:
        from mlflow.exceptions import MlflowException

        client, name = self._connect(), event["name"]
        client.log_artifacts(run_id, event["path"], "model")
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if "RESOURCE_ALREADY_EXISTS" not in str(error.error_code):
                raise
        versions = client.search_model_versions(f"name = '{name}'")
        version = next((v for v in versions if v.tags.get("digest") == event["digest"]), None)
        if version is None:
            source = f"{client.get_run(run_id).info.artifact_uri}/model"
            version = client.create_model_version(name, source, run_id, tags={"digest": event["digest"]})
        client.set_registered_model_alias(name, "latest-checkpoint", version.version)


def metric_histories(uri: str, run_id: str, keys: Iterable[str]) -> dict[str, list[float]]:
    """Read the values that a run has logged under the given names, in the order of steps; missing names are left out.

    Args:
        uri: tracking server or store, as for MLFLOW_TRACKING_URI.
        run_id: MLflow's id of the run.
        keys: names of metrics.

    Raises:
        DataError: the store cannot be reached, or has no such run.
    """
    from longcat.errors import DataError

    store = uri.removeprefix("sqlite:///")
    if store != uri and not Path(store).is_file():  # MLflow would create one
        raise DataError(
            f"there is no MLflow store at {store}; give its address by --tracking-uri or MLFLOW_TRACKING_URI"
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        client = mlflow.MlflowClient(uri)
        known = client.get_run(run_id).data.metrics
        histories = {key: client.get_metric_history(run_id, key) for key in keys if key in known}
    except MlflowException as error:
        raise DataError(f"MLflow run {run_id} cannot be read from {uri}: {str(error).splitlines()[0]}") from None
    return {key: [point.value for point in sorted(points, key=lambda p: p.step)] for key, points in histories.items()}


def sync(workspace: Workspace) -> int:
    """Send unsent events of earlier runs, and mark runs whose process is gone as killed; returns how many were sent.

    Raises:
        Exception: whatever MLflow raises when it still cannot be reached.
    """
    sent = 0
    for path in sorted((workspace.path / "tracking").glob("*.jsonl")):
        sender = Sender(path, tracking_uri(workspace), workspace.path / "mlartifacts")
        if _owner_is_alive(path):
            continue
        _close_abandoned(path)
        if sender.path.stat().st_size > sender._sent.offset:
            sender.send_all()
            sent += 1
    return sent


def _close_abandoned(path: Path) -> None:
    """Append the end events that a killed process could not write."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):  # cut short by the kill
        path.write_bytes(data[: data.rfind(b"\n") + 1])
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    ended = {event["key"] for event in events if event["event"] == "end"}
    journal = Journal(path)
    for event in reversed(events):
        if event["event"] == "start" and event["key"] not in ended:
            journal.append("end", event["key"], status="KILLED", time=time.time())


def _owner_is_alive(path: Path) -> bool:
    with path.open(encoding="utf-8") as stream:
        line = stream.readline()
    try:
        host, pid, started = json.loads(line)["tags"][OWNER_TAG].split("/")
    except (ValueError, KeyError):
        return False
    if host != socket.gethostname():
        return time.time() - path.stat().st_mtime < 3600
    try:
        return bool(abs(psutil.Process(int(pid)).create_time() - float(started)) < 1)
    except psutil.NoSuchProcess:
        return False


def _tags() -> dict[str, str]:
    process = psutil.Process()
    tags = {
        OWNER_TAG: f"{socket.gethostname()}/{process.pid}/{process.create_time()}",
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
