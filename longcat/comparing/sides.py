"""What is compared: the results of a run, or a result with what it was made from and what is known of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from longcat.artifact import MANIFEST, SUMMARY, FactsT, Workspace, read_manifest
from longcat.errors import ArtifactError, ConfigError
from longcat.inventory.entries import Entry, Inventory, finished_entry, results_of
from longcat.inventory.removal import short
from longcat.tracking.runs import TrackedRun, clock, named_so, only_one, runs_in_journals, runs_in_mlflow
from longcat.tracking.store import tracking_uri
from longcat.unpacking import read_json


@dataclass(frozen=True)
class Side:
    """One of the two that are compared."""

    label: str
    """What it is called on a page."""
    workspace: Path
    results: Mapping[str, Entry]
    """The result of each kind."""
    earlier: tuple[Entry, ...] = ()
    """Checkpoints that its checkpoint goes on from."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """The configuration of a run, by dotted names, as JSON; empty where only results are named."""

    @cached_property
    def manifests(self) -> dict[str, dict[str, Any]]:
        """Return the manifests of the finished results, by kind."""
        return {
            kind: read_json(one.path / MANIFEST)
            for kind, one in self.results.items()
            if not one.half_made and one.problem is None
        }

    def facts(self, kind: str, of: type[FactsT]) -> FactsT | None:
        """Return the key figures of a result; None where there are none, or only those of an older version."""
        if kind not in self.manifests:
            return None
        try:
            return read_manifest(self.results[kind].path, of).facts
        except ArtifactError:
            return None


def find_side(what: str, workspace: Workspace | None) -> Side:
    """Return what a user names: a folder, a digest, or a run by its id or name.

    Args:
        what: the folder of a result, or of a workspace, which stands for its last run; a digest, its beginning or
            `KIND/DIGEST`; or the id or name of a run.
        workspace: where digests and runs are looked for; None knows folders only.

    Raises:
        ConfigError: there is none, or there are several.
        DataError: MLflow, which may know the run, cannot be reached.
    """
    folder = Path(what).expanduser()
    if folder.is_dir() and (side := _of_folder(what, folder.resolve())) is not None:
        return side
    if workspace is None:
        raise ConfigError(
            f"{what}: no folder of a result or of a workspace, and there is no workspace to look for it in; name one by "
            "--workspace"
        )
    inventory = Inventory.read(workspace)
    try:
        found = inventory.find(what)
    except ConfigError as error:
        runs = named_so(runs_in_journals(workspace.path / "tracking"), what)
        if not runs and "several" in str(error):
            raise
    else:
        return _side(short(found.name), inventory, [found.name])
    runs = runs or runs_in_mlflow(tracking_uri(workspace), what)
    if not runs:
        raise ConfigError(
            f"{what}: neither a folder of a result or a workspace, nor the beginning of a digest in {workspace.path} "
            "(longcat ls lists them), nor the id or name of a run"
        )
    return _of_run(only_one(runs, what), inventory)


def _of_folder(what: str, folder: Path) -> Side | None:
    """Return what a folder is: a result, also one that lies by itself, or a workspace with its last run."""
    if (folder / MANIFEST).is_file():
        try:
            manifest = read_json(folder / MANIFEST)
            placed = (manifest["kind"], manifest["digest"]) == (folder.parent.name, folder.name)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{what}: {folder / MANIFEST} is unreadable ({error})") from None
        if placed:
            inventory = Inventory.read(Workspace(folder.parents[1]))
            return _side(
                short(f"{folder.parent.name}/{folder.name}"), inventory, [f"{folder.parent.name}/{folder.name}"]
            )
        alone = finished_entry(folder, str(manifest["kind"]), str(manifest["digest"]))
        return Side(folder.name, folder, {alone.kind: alone})
    if (folder / SUMMARY).is_file():
        try:
            summary = read_json(folder / SUMMARY)
            results = results_of(summary)
            run_id = summary.get("mlflow", {}).get("run_id")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{what}: {folder / SUMMARY} is unreadable ({error})") from None
        space = Workspace(folder)
        runs = [run for run in runs_in_journals(folder / "tracking") if run_id is not None and run.id == run_id]
        settings = runs[0].params if runs else {}
        return _side(f"last run of {folder.name}", Inventory.read(space), results, settings)
    return None


def _of_run(run: TrackedRun, inventory: Inventory) -> Side:
    label = f"{run.name} of {clock(run.started)}"
    if not run.results:
        raise ConfigError(f"{label} has finished no stage, so there is nothing of it to compare")
    if missing := [name for name in run.results if name not in inventory.entries]:
        raise ConfigError(
            f"{label}: its {', '.join(map(short, missing))} is not in {inventory.workspace}; name the workspace that has it "
            "by --workspace, or the result by its folder"
        )
    return _side(label, inventory, run.results, run.params)


def _side(label: str, inventory: Inventory, roots: Iterable[str], settings: Mapping[str, str] | None = None) -> Side:
    """Collect what some results were made from, and the newest scores and utilisation of their checkpoint."""
    found: dict[str, Entry] = {}
    earlier: list[Entry] = []
    for name in (*reversed(list(roots)), *inventory.made_from(roots)):
        one = inventory.entries.get(name)
        if one is None:
            continue
        if one.kind == "checkpoint" and "checkpoint" in found and one != found["checkpoint"]:
            earlier.append(one)
        found.setdefault(one.kind, one)
    if "checkpoint" in found:
        for kinds in (("evaluation",), ("measurement", "benchmark")):
            below = found["checkpoint"]
            for kind in kinds:
                made = [inventory.entries[name] for name in inventory.children.get(below.name, ())]
                newest = [one for one in made if one.kind == kind and not one.half_made]
                if kind not in found and not newest:
                    break
                below = found.setdefault(kind, newest[-1] if newest else below)
    in_order = dict(sorted(found.items(), key=lambda item: item[1].created))
    return Side(label, inventory.workspace, in_order, tuple(earlier), settings or {})
