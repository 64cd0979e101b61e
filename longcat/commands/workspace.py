"""`longcat ls`, `show`, `pin`, `unpin`, `rm` and `gc`: what is in a workspace, where it comes from, and what may go."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.commands.options import Json, WorkspacePath
from longcat.errors import ConfigError
from longcat.printable import printable

if TYPE_CHECKING:
    from longcat.artifact import Workspace
    from longcat.inventory.entries import Entry, Inventory
    from longcat.inventory.removal import Keeping

Named = Annotated[
    list[str],
    typer.Argument(metavar="DIGEST...", help="Results: first characters of their digests, KIND/DIGEST, or folders."),
]
_HERE = Path("workspace")


def ls(workspace: WorkspacePath = _HERE, as_json: Json = False) -> None:
    """List the results in a workspace, oldest first: what they are, how big, pinned or in use, and what may go."""
    from longcat.tables import print_results

    view = _View.read(_open(workspace))
    rows = [view.row(one) for one in view.inventory.entries.values()]
    answer = {
        "workspace": str(view.inventory.workspace),
        "in_use_by": view.user,
        "results": rows,
        "bytes": sum(row["bytes"] for row in rows),
        "may_go_bytes": sum(row["bytes"] for row in rows if row["may_go"]),
    }
    if as_json:
        _print_json(answer)
    else:
        print_results(answer)


def show(
    result: Annotated[
        str, typer.Argument(metavar="DIGEST", help="First characters of a digest, KIND/DIGEST, or a folder.")
    ],
    workspace: WorkspacePath = _HERE,
    as_json: Json = False,
) -> None:
    """Say what a result is, what it was made from, what is made from it, and why it is kept."""
    from rich.console import Console

    from longcat.artifact import MANIFEST
    from longcat.tables import print_pairs, print_tree, say
    from longcat.unpacking import read_json

    view = _View.read(_open(workspace))
    one = view.inventory.find(result)
    row = view.row(one)
    manifest = read_json(one.path / MANIFEST) if not one.half_made and one.problem is None else {}
    told = {name: manifest.get(name) for name in ("seconds", "stage_version", "longcat", "git_commit")}
    known = view.inventory
    origins = view.lineage(known.made_from([one.name]), known.parents)
    results = view.lineage(known.made_of([one.name]), known.made_directly_of)
    if as_json:
        details = {name: manifest.get(name) for name in ("identity", "facts", "files")}
        _print_json(row | told | {"made_from": origins, "made_of_it": results} | details)
        return
    pairs = {
        "result": one.name,
        "what": _what(row),
        "finished" if not one.half_made else "begun": time.strftime("%Y-%m-%d %H:%M", time.localtime(one.created)),
        "took": None if told["seconds"] is None else f"{told['seconds']:,.1f} s",
        "size": f"{one.bytes / 1e6:,.1f} MB in {len(manifest.get('files', ()))} files",
        "made by": f"longcat {told['longcat']}" if told["longcat"] else None,
        "git commit": told["git_commit"],
        "may go": "yes, longcat gc lists it" if row["may_go"] else f"no: {row['kept'] or 'it is half made'}",
    }
    print_pairs("", {name: value for name, value in pairs.items() if value is not None})
    say(Console(), f"Path: {one.path}")
    print_tree("made from", known.parents(one.name), origins)
    print_tree("made from it", known.made_directly_of(one.name), results)


def pin(names: Named, workspace: WorkspacePath = _HERE, as_json: Json = False) -> None:
    """Keep results, and all that they are made from, from ever being removed."""
    from longcat.inventory.entries import Inventory
    from longcat.inventory.pins import pin as pin_results
    from longcat.inventory.pins import pins

    space = _open(workspace)

    def find() -> list[str]:
        inventory = Inventory.read(space)
        found = [inventory.find(name) for name in names]
        if half := [one for one in found if one.half_made]:
            raise ConfigError(f"{half[0].name} is half made, and cannot be pinned before it is finished")
        return [one.name for one in found]

    with _disk_errors(space):
        pin_results(space.path, find)
    _say_pins(pins(space.path), as_json)


def unpin(names: Named, workspace: WorkspacePath = _HERE, as_json: Json = False) -> None:
    """Let results go that were pinned."""
    from longcat.inventory.pins import pins
    from longcat.inventory.pins import unpin as unpin_results

    space = _open(workspace)
    pinned, chosen = pins(space.path), list[str]()
    for what in names:  # also of what has been deleted by hand
        found = [name for name in pinned if name in (what, f"{Path(what).parent.name}/{Path(what).name}")] or [
            name for name in pinned if name.partition("/")[2].startswith(what)
        ]
        if len(found) != 1:
            raise ConfigError(f"{what}: {'several results' if found else 'no result'} that is pinned begins so")
        chosen += found
    with _disk_errors(space):
        unpin_results(space.path, chosen)
    _say_pins(pins(space.path), as_json)


def rm(
    names: Named,
    workspace: WorkspacePath = _HERE,
    force: Annotated[bool, typer.Option("--force", help="Remove also what others are made from; they stay.")] = False,
    as_json: Json = False,
) -> None:
    """Remove results by name; refused for what is pinned, a champion, or what others are made from."""
    from longcat.inventory.removal import refuse_what_is_needed, remove_entries

    space = _open(workspace)
    with _alone(space):
        view = _View.read(space)
        chosen = list({one.name: one for one in map(view.inventory.find, names)}.values())
        refuse_what_is_needed(view.inventory, chosen, view.kept, force)
        remove_entries(space, chosen)
    _say_removed(chosen, as_json, removed=True)


def gc(
    workspace: WorkspacePath = _HERE,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it they are only listed.")] = False,
    as_json: Json = False,
) -> None:
    """List or remove results that nothing kept is made from, oldest first; half-made ones are `longcat clean`'s.

    Kept are results that are pinned, champions, of the last run, or not yet sent to MLflow, what half-made ones need, and all
    that these are made from.
    """
    from longcat.inventory.removal import removable, remove_entries

    space = _open(workspace)
    if yes:
        with _alone(space):
            view = _View.read(space)
            found = removable(view.inventory, view.kept)
            remove_entries(space, found)
    else:
        view = _View.read(space)
        found = removable(view.inventory, view.kept)
    _say_removed(found, as_json, removed=yes)


# ---------------------------------------------------------------------------------------------------- what is there


class _View:
    """A workspace with what is pinned, kept and in use in it."""

    def __init__(self, inventory: Inventory, kept: Keeping, pinned: Container[str], champions: Container[str]) -> None:
        from longcat.inventory.entries import in_use

        self.inventory, self.kept, self.pinned, self.champions = inventory, kept, pinned, champions
        self.user, self.used = in_use(inventory)

    @classmethod
    def read(cls, space: Workspace) -> _View:
        from longcat.evaluation.decisions import champions
        from longcat.inventory.entries import Inventory
        from longcat.inventory.pins import pins
        from longcat.inventory.removal import keeping
        from longcat.tracking.journal import unsent_paths

        inventory = Inventory.read(space)
        best, chosen = {}, champions(space.path)
        for one in chosen:
            best[f"evaluation/{one.evaluation}"] = f"what the champion of {one.model} was chosen by"
            best[f"checkpoint/{one.checkpoint}"] = f"the champion of {one.model}"
        waiting = unsent_paths(space.path / "tracking")
        unsent = [
            one.name
            for one in inventory.entries.values()
            if any(path == one.path or one.path in path.parents for path in waiting)
        ]
        kept = keeping(inventory, best, unsent)
        return cls(inventory, kept, pins(space.path), {f"checkpoint/{one.checkpoint}" for one in chosen})

    def row(self, one: Entry) -> dict[str, Any]:
        """Return what is known of an entry, as JSON values."""
        why = self.kept.reason(one.name)
        return {
            "kind": one.kind,
            "digest": one.digest,
            "path": str(one.path),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(one.created)),
            "age_s": round(max(0.0, time.time() - one.created)),
            "bytes": one.bytes,
            "headline": one.headline,
            "parents": list(one.parents),
            "half_made": one.half_made,
            "problem": one.problem,
            "pinned": one.name in self.pinned,
            "champion": one.name in self.champions,
            "in_use": one.name in self.used,
            "kept": why,
            "may_go": why is None and not one.half_made and one.name not in self.used,
        }

    def lineage(self, names: Iterable[str], step: Callable[[str], Sequence[str]]) -> list[dict[str, Any]]:
        """Return results and what `step` leads to from each, as `name`, `what` (None for what is gone) and `of`."""
        found = []
        for name in names:
            one = self.inventory.entries.get(name)
            what = None if one is None else _what(self.row(one))
            found.append({"name": name, "what": what, "of": list(step(name))})
        return found


def _what(row: dict[str, Any]) -> str:
    """Return what is to be said of an entry in a line: its headline, or why it has none."""
    if row["half_made"]:
        return "half made"
    if row["problem"] is not None:
        return "its manifest is unreadable"
    return str(row["headline"] or "")


def _open(workspace: Path) -> Workspace:
    from longcat.artifact import Workspace

    if not workspace.expanduser().is_dir():
        raise ConfigError(f"--workspace {workspace}: there is no such folder")
    return Workspace(workspace)


@contextmanager
def _disk_errors(space: Workspace) -> Iterator[None]:
    from longcat.disk import disk_errors

    with disk_errors(space.path):
        yield


@contextmanager
def _alone(space: Workspace) -> Iterator[None]:
    """Hold what nobody may write, pin or remove without."""
    from longcat.inventory.pins import pins_held

    with _disk_errors(space), space.lease(), pins_held(space.path):
        yield


# ---------------------------------------------------------------------------------------------------- what is said


def _print_json(answer: Any) -> None:
    print(json.dumps(answer, indent=2, ensure_ascii=False))


def _say_pins(pinned: dict[str, str], as_json: bool) -> None:
    if as_json:
        _print_json({"pinned": pinned})
    else:
        print("\n".join(f"{name} is pinned" for name in pinned) or "nothing is pinned")


def _say_removed(found: list[Entry], as_json: bool, *, removed: bool) -> None:
    size = sum(one.bytes for one in found)
    if as_json:
        rows = [{"kind": one.kind, "digest": one.digest, "path": str(one.path), "bytes": one.bytes} for one in found]
        _print_json({"results": rows, "bytes": size, "removed": removed})
        return
    for one in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.created))
        print(
            printable(f"{one.name}: {one.bytes / 1e6:,.1f} MB, {when}" + (f", {one.headline}" if one.headline else ""))
        )
    if not found:
        print("nothing may go")
    else:
        print(f"removed {size / 1e6:,.1f} MB" if removed else f"{size / 1e6:,.1f} MB in all; --yes removes them")
