"""The results in a workspace, by what their manifests say; no file of theirs is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longcat.artifact import MANIFEST, PARENTS, Workspace, finished_at
from longcat.errors import ConfigError
from longcat.lease import holder_of
from longcat.unpacking import read_json, why_unreadable

SHORT = 12
"""Characters of a digest that are shown."""
_LEAST = 4
"""Characters that a digest is known by."""
_HEX = set("0123456789abcdef")


def results_of(summary: Mapping[str, Any]) -> list[str]:
    """Return the names of the results of a run, stage by stage, by its summary.

    Raises:
        KeyError, TypeError: it is no summary.
    """
    return [f"{one['artifact']['kind']}/{one['artifact']['digest']}" for one in summary["stages"]]


@dataclass(frozen=True)
class Entry:
    """A result, or one that is half made."""

    kind: str
    digest: str
    path: Path
    created: float
    """Unix time in seconds at which it was finished, or last begun."""
    bytes: int
    headline: str | None = None
    """What its manifest says in a few words; none in those of older versions."""
    parents: tuple[str, ...] = ()
    """Names of what it is made from."""
    half_made: bool = False
    problem: str | None = None
    """Why its manifest cannot be read; what it is made from is not known then."""

    @property
    def name(self) -> str:
        """Return `KIND/DIGEST`."""
        return f"{self.kind}/{self.digest}"


@dataclass(frozen=True)
class Inventory:
    """All entries of a workspace, and how they depend on one another."""

    workspace: Path
    entries: Mapping[str, Entry]
    """By name, oldest first; of a half-made one that is finished, too, the finished one."""
    children: Mapping[str, tuple[str, ...]] = field(repr=False)
    """Names of what is made from each; also from what is not here any more."""

    @classmethod
    def read(cls, workspace: Workspace) -> Inventory:
        """Read the manifests of a workspace."""
        found = [*map(_half_made, workspace.half_made()), *map(finished_entry, workspace.finished())]
        entries = {one.name: one for one in found}
        entries = dict(sorted(entries.items(), key=lambda item: (item[1].created, item[0])))
        children: dict[str, list[str]] = {}
        for one in entries.values():
            for parent in dict.fromkeys(one.parents):
                children.setdefault(parent, []).append(one.name)
        return cls(workspace.path, entries, {name: tuple(made) for name, made in children.items()})

    def find(self, what: str) -> Entry:
        """Return the entry that a user names by a digest, its beginning, `KIND/DIGEST`, or a folder.

        Raises:
            ConfigError: there is none, or there are several.
        """
        folder = Path(what).expanduser()
        if folder.is_dir() and (inside := self._at(folder.resolve())) is not None:
            return inside
        kind, _, digest = what.rpartition("/")
        if folder.parent.resolve().parent == self.workspace.resolve():  # a path that ends early
            kind = folder.parent.name
        found = []
        if len(digest) >= _LEAST and set(digest) <= _HEX:
            found = [one for one in self.entries.values() if one.digest.startswith(digest) and kind in ("", one.kind)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"{what}: several results begin so: {', '.join(one.name for one in found)}")
        raise ConfigError(
            f"{what}: there is no result in {self.workspace} whose digest begins so ({_LEAST} characters or more); "
            "longcat ls lists them"
        )

    def made_from(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the names of all that some results are made from, nearest first, each once; also of what is gone."""
        yield from _reached(names, self.parents)

    def made_of(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the names of all that is made from some results, nearest first, each once."""
        yield from _reached(names, self.made_directly_of)

    def parents(self, name: str) -> tuple[str, ...]:
        """Return the names of what a result is made from; none of what is gone."""
        return self.entries[name].parents if name in self.entries else ()

    def made_directly_of(self, name: str) -> tuple[str, ...]:
        """Return the names of what is made from a result, and not by way of another."""
        return self.children.get(name, ())

    def _at(self, folder: Path) -> Entry | None:
        return next((one for one in self.entries.values() if one.path == folder), None)


def in_use(inventory: Inventory) -> tuple[str | None, set[str]]:
    """Return who works in a workspace now, in words, and the names of what is being made and what it is made from.

    None, and no names, if nobody does.
    """
    holder = holder_of(inventory.workspace / ".lease")
    if holder is None:
        return None, set()
    making = [one for one in inventory.entries.values() if one.half_made and one.created >= holder["since"]]
    return str(holder["name"]), {name for one in making for name in (one.name, *one.parents)}


def size_on_disk(folder: Path) -> int:
    """Return the bytes that the files of a folder take on the disk; files that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def _reached(names: Iterable[str], step: Callable[[str], Iterable[str]]) -> Iterator[str]:
    waiting, seen = list(names), set(names)
    for name in waiting:
        for following in step(name):
            if following not in seen:
                seen.add(following)
                waiting.append(following)
                yield following


def finished_entry(folder: Path, kind: str | None = None, digest: str | None = None) -> Entry:
    """Read the manifest of a finished result; its kind and digest are those of its place, if no others are given."""
    kind, digest = kind or folder.parent.name, digest or folder.name
    try:
        manifest = read_json(folder / MANIFEST)
        finished = finished_at(manifest)
        return Entry(
            kind=kind,
            digest=digest,
            path=folder,
            created=_changed(folder / MANIFEST) if finished is None else finished,
            bytes=sum(int(of["bytes"]) for of in manifest["files"].values()),
            headline=manifest.get("headline"),
            parents=_parents(manifest),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Entry(kind, digest, folder, _changed(folder), size_on_disk(folder), problem=why_unreadable(error))


def _half_made(folder: Path) -> Entry:
    record = folder / PARENTS
    try:
        parents = tuple(f"{one['kind']}/{one['digest']}" for one in read_json(record))
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun, or an older version has
        parents = ()
    began = _changed(record if record.is_file() else folder)
    digest = folder.name.removeprefix(".").removesuffix(".partial")
    return Entry(folder.parent.name, digest, folder, began, size_on_disk(folder), parents=parents, half_made=True)


def _parents(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    named = [f"{one['kind']}/{one['digest']}" for one in manifest["parents"]]
    # tokens name their documents among what they are addressed by
    if isinstance(documents := manifest.get("identity", {}).get("documents"), str):
        named.append(f"documents/{documents}")
    return tuple(named)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it has just been finished
        return time.time()
