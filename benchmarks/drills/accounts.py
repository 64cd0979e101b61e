"""What a run has promised, and whether it was kept: steps, metric points, files, processes, bytes."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from longcat.artifact import MANIFEST, sha256_file
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.processes.logs import FOLDER as LOGS
from longcat.training.job import RESULT
from longcat.training.life import read_events
from longcat.training.metrics import read_metrics

Points = Counter[tuple[str, str, int]]
"""How often a value is there, by run, name and step."""
_OF_THE_MOMENT = ("metrics.jsonl", "events.jsonl", LOGS, "stacks.txt", "life.png")
"""Files and folders of a checkpoint that tell times."""


@dataclass
class Steps:
    """Follows the training in a workspace, from attempt to attempt."""

    workspace: Path
    interval: int
    """`training.checkpoint_every_steps`."""
    last: int = 0
    """The furthest step since training last began or went on."""
    lost: int = 0
    """Steps that were done again although a checkpoint was due since."""
    again: int = 0
    """All steps that were done again."""
    starts: int = 0
    """How often training has begun or gone on."""
    fresh: bool = False
    """Whether a step has been recorded since."""
    events: int = 0
    """How many of them there are."""
    _size: int = 0
    _saved: int = 0
    _ended: bool = False
    notes: list[str] = field(default_factory=list)

    def look(self) -> None:
        """Read what is new."""
        folder = self.folder()
        if folder is None:
            return
        events = CheckpointFolder(folder).events
        with suppress(OSError):
            size = events.stat().st_size
            if size != self._size:
                self._size = size
                everything = read_events(folder)
                for event in everything[self.events :]:
                    self._hear(event)
                self.events = len(everything)
        if not self._ended:
            with suppress(OSError, ValueError, KeyError, IndexError):
                step = read_metrics(CheckpointFolder(folder).metrics)[-1]["step"]
                if step > self.last:
                    self.last, self.fresh = step, True

    def folder(self) -> Path | None:
        """Return the folder of the checkpoint, finished or not."""
        for pattern in ("checkpoint/[!.]*", "checkpoint/.*.partial"):
            for path in self.workspace.glob(pattern):
                return path
        return None

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        folder = self.folder()
        return folder is not None and any(CheckpointFolder(folder).progress.glob(".step-*"))

    def trained(self) -> bool:
        """Whether the last step has been done, and is on the disk."""
        folder = self.folder()
        return folder is not None and ((folder / RESULT).is_file() or not folder.name.startswith("."))

    def _hear(self, event: dict[str, Any]) -> None:
        match event:
            case {"kind": "save", "step": int(step)}:
                self._saved = max(self._saved, step)
            case {"kind": "end"}:
                self._ended = True
            case {"kind": "start", "step": int(step)}:
                self.starts += 1
                due = self.last - self.last % self.interval
                # a checkpoint that was being written is one that no step waits for
                kept = due if due > self._saved else self.last
                lost = max(0, kept - step - self.interval, self._saved - step, self.last - step if self._ended else 0)
                if lost:
                    self.notes.append(
                        f"{lost} steps lost: at step {self.last}, saved {self._saved}, went on from {step}"
                    )
                self.lost += lost
                self.again += max(0, self.last - step)
                self.last, self._saved, self._ended, self.fresh = step, step, False, False


# ---------------------------------------------------------------------------------------------------- metric points


def journaled(workspace: Path) -> Points:
    """Count the points in the journals of a workspace, those of runs that MLflow has never heard of under their journal."""
    found: Points = Counter()
    for journal in sorted((workspace / "tracking").glob("*.jsonl")):
        runs: dict[str, str] = {}
        with suppress(OSError, ValueError):
            runs = json.loads(journal.with_suffix(".sent.json").read_text())["run_ids"]
        for line in journal.read_bytes().splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if event["event"] == "points":
                    run = runs.get(event["key"], f"{journal.name}/{event['key']}")
                    found.update((run, name, step) for name, _, _, step in event["points"])
    return found


def stored(store: Path) -> Points:
    """Count the points in MLflow's store."""
    with closing(sqlite3.connect(store, timeout=60)) as database:
        rows = database.execute("SELECT run_uuid, key, step, count(*) FROM metrics GROUP BY run_uuid, key, step")
        return Counter({(run, name, step): count for run, name, step, count in rows})


def open_runs(store: Path) -> list[str]:
    """List the runs that MLflow takes to be running."""
    with closing(sqlite3.connect(store, timeout=60)) as database:
        return [
            f"{name} ({run})"
            for run, name in database.execute("SELECT run_uuid, name FROM runs WHERE status = 'RUNNING'")
        ]


def curve_lost(store: Path, checkpoint: Path) -> int:
    """Count the points of a finished checkpoint's curves that the run which finished it lacks, or has with another value."""
    with closing(sqlite3.connect(store, timeout=60)) as database:
        runs = [
            run
            for (run,) in database.execute(
                "SELECT r.run_uuid FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
                "WHERE t.key = 'artifact' AND t.value = ? AND r.status = 'FINISHED' ORDER BY r.start_time",
                (f"checkpoint/{checkpoint.name}",),
            )
        ]
        found = {
            (name, step): value
            for name, step, value in (
                database.execute(
                    "SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY timestamp",  # the last one counts
                    (runs[-1],),
                )
                if runs
                else ()
            )
        }
    wanted = {(name, step): value for step, record in _curve(checkpoint).items() for name, value in record.items()}
    return sum(key not in found or not math.isclose(found[key], value) for key, value in wanted.items())


# ---------------------------------------------------------------------------------------------------- bytes


def differences(checkpoint: Path, reference: Path) -> list[str]:
    """Say in what a checkpoint differs from that of a run that nothing happened to, but for what is measured."""
    said = []
    if checkpoint.name != reference.name:
        said.append(f"digest {checkpoint.name}, not {reference.name}")
    ours, theirs = (json.loads((of / MANIFEST).read_text()) for of in (checkpoint, reference))
    # each attempt that was asked to stop writes no sample, so that all are those of the plan
    for name in sorted(ours["files"].keys() | theirs["files"].keys()):
        if Path(name).parts[0] not in _OF_THE_MOMENT and ours["files"].get(name) != theirs["files"].get(name):
            said.append(name)
    measured = {"seconds_training", "tokens_per_second", "mfu", "peak_flops"}
    for name in ours["facts"].keys() | theirs["facts"].keys():
        if name not in measured and ours["facts"].get(name) != theirs["facts"].get(name):
            said.append(f"{name}={ours['facts'].get(name)}, not {theirs['facts'].get(name)}")
    if _curve(checkpoint) != _curve(reference):
        said.append("the curves of metrics.jsonl")
    steps = [record["step"] for record in read_metrics(CheckpointFolder(checkpoint).metrics)]
    if steps != list(range(1, len(steps) + 1)):
        said.append("the steps of metrics.jsonl")
    return said


def _curve(checkpoint: Path) -> dict[int, dict[str, float]]:
    return {
        record["step"]: {
            name: value
            for name, value in record.items()
            if name not in ("step", "time", "attempt") and not name.startswith("perf/") and math.isfinite(value)
        }
        for record in read_metrics(CheckpointFolder(checkpoint).metrics)
    }


def damaged(workspace: Path) -> list[str]:
    """List the finished artifacts of a workspace that are not what their manifest says."""
    said = []
    for folder in sorted(path for path in workspace.glob("*/[!.]*") if len(path.name) == 32 and path.is_dir()):
        try:
            files = json.loads((folder / MANIFEST).read_text())["files"]
            wrong = [name for name, of in files.items() if sha256_file(folder / name) != of["sha256"]]
        except (OSError, ValueError, KeyError) as error:
            wrong = [str(error)]
        if wrong and folder.parent.name != "mlartifacts":
            said.append(f"half an artifact: {folder.parent.name}/{folder.name}: {', '.join(wrong)}")
    return said


# ---------------------------------------------------------------------------------------------------- leftovers


def processes_of(mark: tuple[str, str]) -> Iterator[psutil.Process]:
    """Yield the processes that have a variable with a value."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(mark[0]) == mark[1]:
                yield process


def left_files(workspace: Path) -> list[str]:
    """List the locks, temporary and half-made files of a workspace whose run is finished."""
    patterns = (".*.tmp", ".*.partial", ".step-*", "error-*.json", "*.unusable-*", ".*.db.*", ".agent-*", "refused")
    found = [*workspace.glob(".lease*"), *(path for pattern in patterns for path in workspace.rglob(pattern))]
    return sorted(str(path.relative_to(workspace)) for path in found)
