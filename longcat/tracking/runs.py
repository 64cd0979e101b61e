"""Runs by their ids and names, from the journals of a workspace and, for others, from MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longcat.best_effort import reason
from longcat.errors import ConfigError, DataError
from longcat.redaction import redact
from longcat.stores import sqlite_path
from longcat.tracking.forwarding import import_mlflow, open_client
from longcat.tracking.journal import Sent, parse

_TOLD = tuple(b'{"event": "%s"' % event for event in (b"start", b"params", b"tags", b"end"))
"""Beginnings of the lines that say what a run is."""
FACTS = "facts."
"""Beginning of the names of parameters that are facts of a result, not settings."""
_WHOLE = "preset"
"""A parameter that a whole configuration has, and no part of one that explains a stage."""
_SHOWN_RUNS = 8
_LEAST = 4
"""Characters that an id is known by."""


@dataclass
class TrackedRun:
    """A run of a flow, or of one of its stages."""

    name: str
    id: str | None
    """MLflow's; None while it has not been reached."""
    started: float
    """Unix time in seconds."""
    results: list[str] = field(default_factory=list)
    """`KIND/DIGEST` of what it made or reused, in the order of the stages."""
    params: dict[str, str] = field(default_factory=dict)
    """The configuration, by dotted names; empty where MLflow has not been given it."""
    status: str | None = None
    """FINISHED, FAILED or KILLED; another word, or None, while it runs."""
    tags: dict[str, str] = field(default_factory=dict)
    whole: TrackedRun | None = field(default=None, repr=False)
    """The run of the flow, if this is one of its stages."""
    parts: list[TrackedRun] = field(default_factory=list, repr=False)
    """Runs of the stages, in order, if this is a flow's."""
    journal: Path | None = None
    complete: bool = False
    """Whether `params` were the whole configuration as they were recorded: of a flow, or of a row of a sweep."""

    def belongs_to(self, whole: TrackedRun) -> None:
        """Make it a part of a flow's run, of which it has the configuration besides its own part."""
        self.whole = whole
        if not self.complete:
            self.params = whole.params | self.params


def runs_in_journals(directory: Path) -> list[TrackedRun]:
    """Return the runs that were made in a workspace, each flow's before those of its stages, oldest first."""
    found = []
    for journal in sorted(directory.glob("*.jsonl")):
        ids = Sent.of(journal).run_ids
        runs: dict[str, TrackedRun] = {}
        for event in _events(journal):
            key = event["key"]
            with suppress(KeyError, TypeError, AttributeError):
                if event["event"] == "start":
                    if key in runs:  # begun again: what it made before is not its result
                        for name in runs[key].results:
                            runs["pipeline"].results.remove(name)
                    tags = dict(event.get("tags") or {})
                    run = TrackedRun(str(event["name"]), ids.get(key), float(event["time"]), tags=tags, journal=journal)
                    runs[key] = run
                elif event["event"] == "params":
                    runs[key].params |= _settings(event["params"])
                    runs[key].complete = _WHOLE in runs[key].params
                elif event["event"] == "end":
                    runs[key].status = str(event["status"])
                else:
                    runs[key].tags |= event["tags"]
                    if "artifact" in event["tags"]:
                        for run in {id(run): run for run in (runs[key], runs["pipeline"])}.values():
                            run.results.append(str(event["tags"]["artifact"]))
        whole = runs.get("pipeline")
        for run in runs.values():
            if whole is not None and run is not whole:
                run.belongs_to(whole)
                whole.parts.append(run)
            found.append(run)
    return found


def named_so(runs: Iterable[TrackedRun], what: str) -> list[TrackedRun]:
    """Return the runs of an id, or its beginning, or of a name; a flow's run stands for one of its stages of the same name."""
    some = list(runs)
    by_id = [run for run in some if len(what) >= _LEAST and (run.id or "").startswith(what)]
    return by_id or _flows_first([run for run in some if run.name == what])


def _flows_first(runs: list[TrackedRun]) -> list[TrackedRun]:
    """Return the runs of a name without stages whose flow, of one stage, has that name."""
    return [run for run in runs if run.whole is None or run.whole.name != run.name]


def runs_in_mlflow(uri: str, what: str) -> list[TrackedRun]:
    """Ask MLflow for runs of an id or a name, newest first, as `named_so` does; none from a store that is not there.

    Args:
        uri: tracking server or store, as for MLFLOW_TRACKING_URI.
        what: id or name.

    Raises:
        DataError: the store cannot be reached.
    """
    store = sqlite_path(uri)
    if store is not None and not store.is_file():  # MLflow would create one
        return []
    import_mlflow()
    from mlflow.exceptions import MlflowException

    try:
        client = open_client(uri)
        everywhere = [one.experiment_id for one in client.search_experiments()]
        sign = '"' if "'" in what else "'"
        if sign in what:  # no filter of MLflow's can say it
            return []
        by_id = client.search_runs(everywhere, f"attributes.run_id = {sign}{what}{sign}")
        runs = by_id or client.search_runs(everywhere, f"attributes.run_name = {sign}{what}{sign}", max_results=20)
        found = []
        for run in runs:
            one = _tracked(run)
            above = run.data.tags.get("mlflow.parentRunId")
            if above is not None:
                whole = _tracked(client.get_run(above))
                whole.parts = _parts(client, everywhere, above)
                one.belongs_to(whole)
            one.parts = _parts(client, everywhere, run.info.run_id)
            one.results += [name for part in one.parts for name in part.results]
            found.append(one)
        if not by_id:
            found = _flows_first(found)
    except (MlflowException, DataError) as error:
        raise DataError(f"MLflow at {redact(uri)} cannot be asked for run {what}: {reason(error)}") from None
    return found


def _parts(client: Any, experiments: list[str], run_id: str) -> list[TrackedRun]:
    """Return the runs of a flow's stages, in order."""
    parts = client.search_runs(experiments, f"tags.mlflow.parentRunId = '{run_id}'")
    return [_tracked(part) for part in sorted(parts, key=lambda part: part.info.start_time)]


def _settings(params: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters that are settings."""
    return {str(name): str(value) for name, value in params.items() if not str(name).startswith(FACTS)}


def _tracked(run: Any) -> TrackedRun:
    tags, params = dict(run.data.tags), _settings(run.data.params)
    return TrackedRun(
        run.info.run_name,
        run.info.run_id,
        run.info.start_time / 1000,
        [tags["artifact"]] if "artifact" in tags else [],
        params,
        run.info.status,
        tags,
        complete=_WHOLE in params,
    )


def only_one(runs: Iterable[TrackedRun], what: str) -> TrackedRun:
    """Return the run that a user means.

    Raises:
        ConfigError: several are called so.
    """
    newest = sorted(runs, key=lambda run: run.started, reverse=True)
    if len(newest) > 1:
        listed = [f"{run.id or 'not sent yet'} of {clock(run.started)}" for run in newest[:_SHOWN_RUNS]]
        more = f", and {len(newest) - _SHOWN_RUNS} more" if len(newest) > _SHOWN_RUNS else ""
        raise ConfigError(f"{what}: several runs are called so; give the id of one: {', '.join(listed)}{more}")
    return newest[0]


def clock(seconds: float) -> str:
    """Return a time as runs are told apart by it."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _events(journal: Path) -> Iterator[dict[str, Any]]:
    with suppress(FileNotFoundError), journal.open("rb") as stream:
        for line in stream:
            if line.startswith(_TOLD):
                with suppress(ValueError):  # cut short
                    yield parse(line)
