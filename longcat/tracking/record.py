"""All that is kept of a run: what it was asked for, where it ran, and the manifests of what it made.

A workspace has it in its journal's folder and in its results, MLflow in the artifacts of the run; whatever one has lost is read
from the other.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from longcat.artifact import MANIFEST, Artifact
from longcat.errors import ConfigError, DataError
from longcat.redaction import redact
from longcat.stores import sqlite_path, sqlite_url
from longcat.tracking.forwarding import open_client
from longcat.tracking.runs import TrackedRun, named_so, only_one, runs_in_journals, runs_in_mlflow
from longcat.unpacking import parse_json, read_json

if TYPE_CHECKING:
    from longcat.tracking import StageRun

INPUTS = "inputs.json"
"""Name of the list of a corpus' files, in MLflow's run of preprocessing and at the end of its name beside journals."""
MADE_FROM = "made_from"
"""Folder, in MLflow's run of a stage, of the manifests of what its result was made from, as `KIND/DIGEST/manifest.json`."""
CONFIG, ENVIRONMENT = ".config.json", ".environment.json"
_DIGITS = 4  # fewer are no beginning of a digest
_SHOWN = 5


@dataclass(frozen=True)
class Record:
    """A finished run, as it was recorded."""

    run: TrackedRun
    stages: tuple[str, ...]
    """Names of the stages that it ran, in order; of one that nobody knows any more, the name of its run."""
    config: Mapping[str, Any]
    """The whole configuration."""
    environment: Mapping[str, Any] | None
    """See `longcat.environment`; None for a run of a version that did not record it."""
    inputs: Mapping[str, Mapping[str, str]]
    """SHA-256 of the corpus' files by path, by the number of their source; none where it was not recorded."""
    manifests: Mapping[str, Mapping[str, Any]]
    """By `KIND/DIGEST`, of the run's results and of what they were made from, as far as they are kept."""
    workspace: Path
    """Where the results are, if they still are."""
    _files: MlflowFiles

    def of_kind(self, kind: str) -> Mapping[str, Any]:
        """Return the manifest of the last result of a kind; an empty one if none is kept."""
        return next((one for one in reversed(list(self.manifests.values())) if one["kind"] == kind), {})

    def file(self, name: str, path: str) -> Path | bytes | None:
        """Return a file of a result, from the workspace or else its content from MLflow; None where neither has it.

        Args:
            name: `KIND/DIGEST`.
            path: of the file in the result's folder.
        """
        here = self.workspace / name / path
        if here.is_file():
            return here
        made_by = [run.id for run in (*self.run.parts, self.run) if name in run.results and run.id is not None]
        return self._files.read(made_by[0], path) if made_by else None


def find_record(what: str, workspace: Path, uri: str | None) -> Record:
    """Find a run by its id, the id's beginning, or its name, and collect what is kept of it.

    Args:
        what: the run.
        workspace: where it was made; need not be there any more.
        uri: tracking server or store; by default the workspace's own.

    Raises:
        ConfigError: there is no such run, or several; it has not finished; or its configuration is not kept.
        DataError: MLflow, which may know the run, cannot be reached.
    """
    known = runs_in_journals(workspace / "tracking")
    uri = uri or sqlite_url(workspace / "mlflow.db")
    runs = named_so(known, what) or runs_in_mlflow(uri, what)
    if not runs:
        raise ConfigError(f"{what}: there is no such run in {workspace} or {redact(uri)}{_near(what, known)}")
    run = only_one(runs, what)
    whole = run.whole or run
    check_finished(run)
    if not run.results:
        parts = ", ".join(f"{part.name} ({part.id})" for part in run.parts if part.results)
        raise ConfigError(f"{what}: the run {run.name} has made nothing{f'; its parts: {parts}' if parts else ''}")
    files = MlflowFiles(uri)
    config = _config(run, files)
    if config is None:
        raise ConfigError(
            f"{what}: the configuration of {run.name} is kept neither in {workspace / 'tracking'} nor in MLflow, so it cannot "
            "be made again"
        )
    manifests = dict(_manifests(run, whole, workspace, files))
    stages = tuple(part.tags.get("stage", part.name) for part in run.parts or [run])
    inputs = _inputs(manifests, whole, workspace, files)
    return Record(run, stages, config, _beside(whole, ENVIRONMENT, files), inputs, manifests, workspace, files)


def check_finished(run: TrackedRun) -> None:
    """Refuse a run that has not ended well.

    Raises:
        ConfigError: says how it ended, and which of its parts have finished.
    """
    if run.status == "FINISHED":
        return
    how = {"FAILED": "has failed", "KILLED": "was stopped"}.get(run.status or "", "has not ended yet")
    reasons = [part.tags["error"] for part in (run, *run.parts) if "error" in part.tags]
    done = [f"{part.name} ({part.id or 'not sent yet'})" for part in run.parts if part.status == "FINISHED"]
    also = f"; finished, and to be named instead: {', '.join(done)}" if done else ""
    reason = f": {reasons[0].splitlines()[0]}" if reasons else ""
    raise ConfigError(f"the run {run.name} ({run.id or 'not sent yet'}) {how}{reason}{also}")


class MlflowFiles:
    """Files of MLflow's runs; none where the store is away, as what they say may lie elsewhere, too."""

    def __init__(self, uri: str) -> None:
        """Ask this tracking server or store."""
        store = sqlite_path(uri)
        there = store is None or store.is_file()  # MLflow would create one
        try:
            self._client = open_client(uri) if there else None
        except DataError as error:
            raise DataError(f"MLflow at {redact(uri)} cannot be asked for files of runs: {error}") from None

    def names(self, run_id: str, folder: str | None = None) -> list[str]:
        """List the files of a run below a folder."""
        found: list[str] = []
        if self._client is not None:
            with suppress(Exception):
                for one in self._client.list_artifacts(run_id, folder):
                    found += self.names(run_id, one.path) if one.is_dir else [one.path]
        return found

    def read(self, run_id: str, path: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        if self._client is None:
            return None
        with suppress(Exception), TemporaryDirectory() as folder:
            return Path(self._client.download_artifacts(run_id, path, folder)).read_bytes()
        return None

    def json(self, run_id: str, path: str) -> Any:
        """Return the content of a file of JSON; None if there is none."""
        content = self.read(run_id, path)
        with suppress(ValueError):
            return None if content is None else parse_json(content)
        return None


def _config(run: TrackedRun, files: MlflowFiles) -> Mapping[str, Any] | None:
    """Return the configuration of a run: that of its flow, but for a sweep's row, whose own parameters hold all of it."""
    whole = run.whole or run
    if run.complete and run is not whole:
        return tree_of(run.params)
    return _beside(whole, CONFIG, files)


def tree_of(params: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration that parameters of MLflow stand for."""
    tree: dict[str, Any] = {}
    for name, text in params.items():
        *sections, leaf = name.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        try:
            inner[leaf] = json.loads(text)
        except ValueError:
            inner[leaf] = text
    return tree


def _beside(run: TrackedRun, ending: str, files: MlflowFiles) -> Mapping[str, Any] | None:
    """Return what lies beside a journal, or in MLflow's run, under a name with an ending."""
    if run.journal is not None:
        with suppress(OSError, ValueError):
            return dict(read_json(run.journal.with_suffix(ending)))
    return None if run.id is None else _json_ending(run.id, ending, files)


def _json_ending(run_id: str, ending: str, files: MlflowFiles) -> Any:
    found = [path for path in files.names(run_id, "config") if path.endswith(ending)]
    return files.json(run_id, found[0]) if found else None


def _manifests(
    run: TrackedRun, whole: TrackedRun, workspace: Path, files: MlflowFiles
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the manifests of a run's results and of what they were made from, parents first."""
    found: dict[str, Mapping[str, Any]] = {}
    waiting = list(reversed(run.results))
    for name in waiting:
        if name in found:
            continue
        manifest = _manifest(name, (*whole.parts, whole, run), workspace, files)
        if manifest is not None:
            found[name] = manifest
            waiting += made_from(manifest)
    yield from reversed(found.items())


def made_from(manifest: Mapping[str, Any]) -> list[str]:
    """Return `KIND/DIGEST` of what a result was made from."""
    named = [f"{one['kind']}/{one['digest']}" for one in manifest["parents"]]
    documents = manifest["identity"].get("documents") if manifest["kind"] == "tokens" else None
    return [*named, *([f"documents/{documents}"] if documents else [])]


def log_manifests(run: StageRun, artifact: Artifact[Any]) -> None:
    """Log the manifest of a result, and those of what it was made from, some of which have no run of their own."""
    run.log_artifact(artifact.path / MANIFEST)
    for name in made_from({"kind": "", "parents": [], "identity": {}, **artifact.manifest}):
        manifest = artifact.path.parents[1] / name / MANIFEST
        if manifest.is_file():
            run.log_artifact(manifest, f"{MADE_FROM}/{name}")


def _manifest(name: str, runs: Iterable[TrackedRun], workspace: Path, files: MlflowFiles) -> Mapping[str, Any] | None:
    with suppress(OSError, ValueError):
        return dict(read_json(workspace / name / MANIFEST))
    for run in runs:
        if run.id is None:
            continue
        for place in (*([MANIFEST] if name in run.results else []), f"{MADE_FROM}/{name}/{MANIFEST}"):
            manifest = files.json(run.id, place)
            if manifest is not None and f"{manifest['kind']}/{manifest['digest']}" == name:
                return dict(manifest)
    return None


def _inputs(
    manifests: Mapping[str, Any], whole: TrackedRun, workspace: Path, files: MlflowFiles
) -> Mapping[str, Mapping[str, str]]:
    documents = [PurePosixPath(name).name for name in manifests if name.startswith("documents/")]
    if documents:
        with suppress(OSError, ValueError):
            return dict(read_json(workspace / "tracking" / f"{documents[0]}.{INPUTS}"))
    for run in (whole, *whole.parts):
        for path in files.names(run.id, INPUTS.removesuffix(".json")) if run.id is not None else ():
            return files.json(str(run.id), path) or {}
    return {}


def _near(what: str, known: Iterable[TrackedRun]) -> str:
    """Name runs that may be meant: that have made the result of this digest, of a like name or id, or else the newest."""
    newest = sorted(known, key=lambda run: run.started, reverse=True)
    made = [
        (name, run.whole or run) for run in newest for name in run.results if name.partition("/")[2].startswith(what)
    ]
    if made and len(what) >= _DIGITS:
        result, run = made[0]
        return f"; {result} is a result of the run {run.name} ({run.id or 'not sent yet'})"
    flows = [run for run in newest if run.whole is None]
    words = [word for run in newest for word in (run.name, run.id) if word]
    near = difflib.get_close_matches(what, words, n=2, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    listed = ", ".join(f"{run.name} ({run.id or 'not sent yet'})" for run in flows[:_SHOWN])
    return f"; the newest there: {listed}" if listed else ""
