"""Content-addressed results of stages: a directory `workspace/<kind>/<digest>/` with a `manifest.json`.

The digest covers everything that can change the bytes: the stage's version, the declared part of the configuration and
the parent artifacts. A directory gets its final name only when it is complete: built, hashed, cleared of all that is not
in its manifest. Each of these is remembered, so whoever is interrupted goes on where it was. A finished artifact is
never modified, and it is checked against its manifest before each use; a workspace remembers the hashes of files that
are unchanged (`hash_memory`).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from longcat import __version__
from longcat.disk import (
    check_can_be_folder,
    clear_temporaries,
    disk_errors,
    private_folder,
    remove,
    replacing,
    sync,
    sync_all,
)
from longcat.errors import ArtifactError, StorageError, WorkspaceBusyError
from longcat.hash_memory import HashMemory
from longcat.lease import check_lease, lease
from longcat.provenance import git_commit, source_hashes
from longcat.redaction import redact_tree
from longcat.unpacking import read_json, why_unreadable

MANIFEST = "manifest.json"
SUMMARY = "summary.json"
"""What the last run of a workspace has made, stage by stage."""
PARENTS = ".parents.json"
"""Of a half-made artifact: what it is made from; written anew by whoever goes on."""
_CODE, _BUILT = ".code.json", ".built.json"
"""Of a half-made artifact: the code that began to make it; what was built, once only hashing and cleaning are left."""


class Facts(BaseModel, ABC):
    """Key figures of a finished stage, as its manifest records them; the line below a field describes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)

    SETTINGS: ClassVar[frozenset[str]] = frozenset()
    """Facts and parts of them that were chosen, not found: MLflow has them as parameters, not as metrics."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """Return the result in a few words, for tables of stages."""

    @property
    @abstractmethod
    def figures(self) -> dict[str, float | None]:
        """Return the figures to compare runs by; None for a figure that this run does not have."""

    def remarks(self, artifact: Path) -> list[str]:
        """Return lines for people to read below the table of stages; none by default.

        Args:
            artifact: directory of the artifact.
        """
        return []


FactsT = TypeVar("FactsT", bound=Facts)


@dataclass(frozen=True)
class Artifact(Generic[FactsT]):
    """A finished, verified result of a stage."""

    kind: str
    digest: str
    path: Path
    manifest: Mapping[str, Any]
    facts: FactsT
    cached: bool = False
    """Whether it existed already and was reused."""

    @property
    def seconds(self) -> float:
        """Return the time that building it took, in seconds."""
        return float(self.manifest["seconds"])


@dataclass(frozen=True)
class Recipe(Generic[FactsT]):
    """Inputs of an artifact: everything that its digest depends on, its type of facts and its code."""

    kind: str
    """Directory under the workspace, for example `tokens`."""
    facts: type[FactsT] = field(compare=False)
    """Type of the key figures."""
    version: int
    """STAGE_VERSION of the stage; raised whenever the same inputs give other bytes."""
    identity: Mapping[str, Any]
    """Everything else that can change the bytes, as JSON values (`longcat.config.identity`)."""
    parents: tuple[Artifact[Any], ...] = ()
    """Artifacts that it is made from."""
    sources: tuple[Path, ...] = field(default=(), compare=False)
    """Source files of the code that makes it (`longcat.provenance.code_of`); recorded, and compared on reuse."""

    @property
    def digest(self) -> str:
        """Return 128 bits of SHA-256, in hex, over the canonical JSON of all fields but `facts` and `sources`."""
        payload = {
            "kind": self.kind,
            "version": self.version,
            "identity": self.identity,
            "parents": [[parent.kind, parent.digest] for parent in self.parents],
        }
        text = json.dumps(payload, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def made_from(self) -> list[dict[str, str]]:
        """Return kind and digest of each parent, as a manifest has them."""
        return [{"kind": parent.kind, "digest": parent.digest} for parent in self.parents]


class Workspace:
    """A directory that holds artifacts, the local MLflow store and the summary of the last run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser().resolve()
        check_can_be_folder(self.path, "--workspace")
        try:
            with disk_errors(self.path):
                private_folder(self.path)
        except OSError as error:  # where no folder can be made, as in /proc
            raise StorageError(f"cannot make {self.path}: {error.strerror}; choose another --workspace") from None
        self.hashes = HashMemory(self.path / ".hashes.db")

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file, in hex, from memory if it is unchanged.

        Raises:
            OSError: the file cannot be read.
        """
        return self.hashes.sha256(path, sha256_file)

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Hold the exclusive right to write in this workspace, and clear away what killed processes left behind.

        Raises:
            WorkspaceBusyError: another process holds it.
            StorageError: the workspace cannot be written.
        """
        with lease(self.path / ".lease") as first:
            if first:
                with disk_errors(self.path):
                    for folder in (self.path, *(path for path in self.path.iterdir() if path.is_dir())):
                        clear_temporaries(folder, deep=False)
            yield

    def partial(self, recipe: Recipe[Any]) -> Path:
        """Return the directory in which the artifact of a recipe is made."""
        return self.path / recipe.kind / f".{recipe.digest}.partial"

    def finished(self) -> list[Path]:
        """List the directories of finished artifacts."""
        return sorted(path.parent for path in self.path.glob(f"*/[!.]*/{MANIFEST}"))

    def half_made(self) -> list[Path]:
        """List the directories of artifacts that are being made, or whose making was interrupted."""
        return sorted(path for path in self.path.glob("*/.*.partial") if path.is_dir())

    def find(self, recipe: Recipe[FactsT]) -> Artifact[FactsT] | None:
        """Return the finished and verified artifact of a recipe, or None if it does not exist.

        Raises:
            ArtifactError: it exists, but a file is missing or differs from the manifest.
        """
        directory = self.path / recipe.kind / recipe.digest
        with disk_errors(directory):
            if not directory.is_dir():
                return None
        artifact = open_artifact(directory, recipe.facts, self.sha256)
        self.hashes.save()
        _warn_of_changed_code(artifact, recipe)
        return artifact

    def materialize(
        self,
        recipe: Recipe[FactsT],
        build: Callable[[Path], FactsT],
        *,
        resumable: bool = False,
        same_code: bool = False,
        scratch: Sequence[str] = (),
    ) -> Artifact[FactsT]:
        """Return the artifact of `recipe`, and build it first if it does not exist.

        `build(directory)` fills an empty directory and returns the artifact's facts. What it has built is not built again
        by the same code, however hashing and moving it to its place are interrupted.

        Args:
            recipe: what to make.
            build: makes it.
            resumable: whether `build` goes on with the files of an interrupted attempt, which are still there then.
            same_code: go on only with files that this very code has left.
            scratch: patterns of files and folders at the top of the directory that `build` needs, but not the artifact,
                besides those whose names begin with a dot; they are removed last of all.

        Raises:
            ArtifactError: a finished artifact is damaged.
            StorageError: the disk is full or not writable.
            WorkspaceBusyError: another process is writing in this workspace.
        """
        finished = self.find(recipe)
        if finished is not None:
            return finished
        partial = self.partial(recipe)
        with disk_errors(partial), self.lease():
            if (finished := self.find(recipe)) is not None:  # of a process that held the lease until now
                return finished
            clear_temporaries(partial, deep=True)
            if (partial / MANIFEST).is_file():
                manifest = dict(open_artifact(partial, recipe.facts).manifest)
            else:
                built = _what_was_built(partial, recipe) or _build(recipe, build, partial, resumable, same_code)
                left_out = {path for pattern in (".*", *scratch) for path in partial.glob(pattern)}
                names = [name for name in _files(partial) if partial / Path(name).parts[0] not in left_out]
                manifest = {
                    "kind": recipe.kind,
                    "digest": recipe.digest,
                    "stage_version": recipe.version,
                    "identity": redact_tree(recipe.identity),
                    "parents": recipe.made_from,
                    "headline": recipe.facts.model_validate(built["facts"]).headline,
                    "facts": built["facts"],
                    "files": _describe_all(partial, names),
                    "seconds": built["seconds"],
                    "created": datetime.now().astimezone().isoformat(timespec="microseconds"),
                    "longcat": __version__,
                    "git_commit": git_commit(),
                    "source": built["source"],
                }
                check_lease()
                write_json(partial / MANIFEST, manifest)
            final = self.path / recipe.kind / recipe.digest
            _publish(partial, manifest, final)
        return Artifact(recipe.kind, recipe.digest, final, manifest, recipe.facts.model_validate(manifest["facts"]))


def _what_was_built(partial: Path, recipe: Recipe[Any]) -> dict[str, Any] | None:
    """Return what `_build` returned before it was interrupted in hashing, if this is the same code."""
    built = _read_json(partial / _BUILT)
    if not built or built["source"] != source_hashes(recipe.sources):
        return None
    try:
        recipe.facts.model_validate(built["facts"])
    except ValueError:
        return None
    return built


def _build(
    recipe: Recipe[FactsT], build: Callable[[Path], FactsT], partial: Path, resumable: bool, same_code: bool
) -> dict[str, Any]:
    """Build an artifact and put it on the disk; returns its `facts`, the `seconds` it took, and the code, `source`."""
    source = source_hashes(recipe.sources)
    if not resumable or (same_code and _read_json(partial / _CODE) != source):
        remove(partial)
    private_folder(partial)
    remove(partial / _BUILT)
    began = time.monotonic()
    try:
        write_json(partial / PARENTS, recipe.made_from)
        write_json(partial / _CODE, source)
        facts = build(partial)
        clear_temporaries(partial, deep=True)
        sync_all(partial)
        check_lease()
        built = {
            "facts": facts.model_dump(mode="json"),
            "seconds": round(time.monotonic() - began, 3),
            "source": source,
        }
        write_json(partial / _BUILT, built)
    except BaseException:
        with suppress(OSError, WorkspaceBusyError):
            check_lease()  # else it is another's
            if not resumable:
                remove(partial)
        raise
    return built


def _publish(partial: Path, manifest: Mapping[str, Any], final: Path) -> None:
    """Give a hashed artifact its name, without what is not in its manifest."""
    check_lease()
    kept = {MANIFEST, *(Path(name).parts[0] for name in manifest["files"])}
    for path in list(partial.iterdir()):
        if path.name not in kept:
            remove(path)
    sync(partial)
    check_lease()
    os.rename(partial, final)
    sync(final.parent)


def read_manifest(directory: Path, facts: type[FactsT]) -> Artifact[FactsT]:
    """Read what a finished artifact says of itself, without a look at its other files.

    Args:
        directory: the artifact.
        facts: type of its key figures.

    Raises:
        ArtifactError: it has no manifest that can be read.
    """
    try:
        manifest = read_json(directory / MANIFEST)
        known = facts.model_validate(manifest["facts"])
        return Artifact(str(manifest["kind"]), str(manifest["digest"]), directory, manifest, known, cached=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, ("facts", *first["loc"])))
        raise ArtifactError(
            f"{directory / MANIFEST} is of another version of longcat ({where}: {first['msg']}; it was made by "
            f"{manifest.get('longcat') or 'one that gives no version'}); {_remedy(directory)}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{directory / MANIFEST} is missing or unreadable ({why_unreadable(error)}); {_remedy(directory)}"
        ) from None


def finished_at(manifest: Mapping[str, Any]) -> float | None:
    """Return the Unix time in seconds at which a result was finished; None if its manifest does not say."""
    try:
        return datetime.fromisoformat(manifest["created"]).timestamp()
    except (ValueError, TypeError, KeyError):
        return None


def open_artifact(
    directory: Path, facts: type[FactsT], sha256: Callable[[Path], str] | None = None
) -> Artifact[FactsT]:
    """Open a finished artifact and check every file against its manifest.

    Args:
        directory: the artifact.
        facts: type of its key figures.
        sha256: finds the hash of a file; by default all are read.

    Raises:
        ArtifactError: naming the file and what is wrong with it.
    """
    artifact = read_manifest(directory, facts)
    _check_files(directory, artifact.manifest, sha256 or sha256_file)
    return artifact


def verify(directory: Path) -> int:
    """Read every file of a finished artifact of any kind, and return how many there are.

    Raises:
        ArtifactError: naming the file and what is wrong with it.
    """
    try:
        manifest = read_json(directory / MANIFEST)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{directory / MANIFEST} is missing or unreadable ({error}); {_remedy(directory)}"
        ) from None
    return _check_files(directory, manifest, sha256_file)


def _check_files(directory: Path, manifest: Mapping[str, Any], sha256: Callable[[Path], str]) -> int:
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict):
        raise ArtifactError(f"{directory / MANIFEST} names no files; {_remedy(directory)}")
    with ThreadPoolExecutor() as pool:
        for problem in pool.map(lambda item: _problem(directory / item[0], item[1], sha256), files.items()):
            if problem:
                raise ArtifactError(f"{problem}; {_remedy(directory)}")
    return len(files)


def _problem(path: Path, expected: Mapping[str, Any], sha256: Callable[[Path], str]) -> str | None:
    try:
        if not path.is_file():
            return f"{path} is missing"
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{path} has {size} bytes, its manifest says {expected['bytes']}"
        digest = sha256(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if digest != expected["sha256"]:
        return f"{path} is damaged: sha256 is {digest}, its manifest says {expected['sha256']}"
    return None


def _remedy(directory: Path) -> str:
    return f"restore it from a copy, or delete {directory} to rebuild it"


def _warn_of_changed_code(artifact: Artifact[Any], recipe: Recipe[Any]) -> None:
    then, now = artifact.manifest.get("source", {}), source_hashes(recipe.sources)
    changed = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    if changed and recipe.sources:
        commit = artifact.manifest.get("git_commit")
        look = f" (git diff {commit} -- {' '.join(changed)})" if commit else ""
        warnings.warn(
            f"reusing {artifact.kind}/{artifact.digest}, made by other code of the same STAGE_VERSION "
            f"{recipe.version}: {', '.join(changed)} changed since{look}",
            stacklevel=4,
        )


# ---------------------------------------------------------------------------------------------------- files


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a reader sees the old or the new file as a whole, also after a power failure."""
    with replacing(path) as stream:
        stream.write((json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _read_json(path: Path) -> Any:
    """Return the content of a file, or None if there is no such file, or nothing of use in it."""
    try:
        return read_json(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def _describe_all(directory: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: _describe(directory / name), names), strict=True))


def _describe(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}
