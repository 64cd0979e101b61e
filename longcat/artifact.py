"""Content-addressed results of stages: a directory `workspace/<kind>/<digest>/` with a `manifest.json`.

The digest covers everything that can change the bytes: the stage's version, the declared part of the configuration and
the parent artifacts. A directory gets its final name only when it is complete. A finished artifact is never modified,
and it is checked against its manifest before each use.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from longcat import __version__
from longcat.errors import ArtifactError, StorageError
from longcat.lease import lease
from longcat.provenance import git_commit, source_hashes
from longcat.redaction import redact_tree

MANIFEST = "manifest.json"
_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


class Facts(BaseModel, ABC):
    """Key figures of a finished stage, as its manifest records them."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

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


class Workspace:
    """A directory that holds artifacts, the local MLflow store and the summary of the last run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser().resolve()
        try:
            with disk_errors(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise StorageError(
                f"{self.path} cannot be a folder because a file has this name; choose another --workspace"
            ) from None
        except OSError as error:  # where no folder can be made, as in /proc
            raise StorageError(f"cannot make {self.path}: {error.strerror}; choose another --workspace") from None

    def lease(self) -> AbstractContextManager[None]:
        """Hold the exclusive right to write in this workspace; raises `WorkspaceBusyError` if another process does."""
        return lease(self.path / ".lease")

    def find(self, recipe: Recipe[FactsT]) -> Artifact[FactsT] | None:
        """Return the finished and verified artifact of a recipe, or None if it does not exist.

        Raises:
            ArtifactError: it exists, but a file is missing or differs from the manifest.
        """
        directory = self.path / recipe.kind / recipe.digest
        if not directory.is_dir():
            return None
        artifact = open_artifact(directory, recipe.facts)
        _warn_of_changed_code(artifact, recipe)
        return artifact

    def materialize(
        self, recipe: Recipe[FactsT], build: Callable[[Path], FactsT], *, resumable: bool = False
    ) -> Artifact[FactsT]:
        """Return the artifact of `recipe`, and build it first if it does not exist.

        `build(directory)` fills an empty directory and returns the artifact's facts. If `resumable`, the directory
        still holds the files of an interrupted attempt.

        Raises:
            ArtifactError: a finished artifact is damaged.
            StorageError: the disk is full or not writable.
            WorkspaceBusyError: another process is writing in this workspace.
        """
        finished = self.find(recipe)
        if finished is not None:
            return finished
        partial = self.path / recipe.kind / f".{recipe.digest}.partial"
        with disk_errors(partial), self.lease():
            if partial.exists() and not resumable:
                shutil.rmtree(partial)
            partial.mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            try:
                facts = build(partial)
                _clear(partial)
                manifest = {
                    "kind": recipe.kind,
                    "digest": recipe.digest,
                    "stage_version": recipe.version,
                    "identity": redact_tree(recipe.identity),
                    "parents": [{"kind": parent.kind, "digest": parent.digest} for parent in recipe.parents],
                    "facts": facts.model_dump(mode="json"),
                    "files": {name: _describe(partial / name) for name in _files(partial)},
                    "seconds": round(time.monotonic() - began, 3),
                    "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                    "longcat": __version__,
                    "git_commit": git_commit(),
                    "source": source_hashes(recipe.sources),
                }
                write_json(partial / MANIFEST, manifest)
            except BaseException:
                if not resumable:
                    shutil.rmtree(partial, ignore_errors=True)
                raise
            final = self.path / recipe.kind / recipe.digest
            os.rename(partial, final)
            _sync_directory(final.parent)
        return Artifact(recipe.kind, recipe.digest, final, manifest, facts)


def open_artifact(directory: Path, facts: type[FactsT]) -> Artifact[FactsT]:
    """Open a finished artifact and check every file against its manifest.

    Args:
        directory: the artifact.
        facts: type of its key figures.

    Raises:
        ArtifactError: naming the file and what is wrong with it.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = manifest["files"]
        known = facts.model_validate(manifest["facts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{directory / MANIFEST} is missing or unreadable ({error}); {_remedy(directory)}"
        ) from None
    with ThreadPoolExecutor() as pool:
        for problem in pool.map(lambda item: _problem(directory / item[0], item[1]), files.items()):
            if problem:
                raise ArtifactError(f"{problem}; {_remedy(directory)}")
    return Artifact(manifest["kind"], manifest["digest"], directory, manifest, known, cached=True)


def _problem(path: Path, expected: Mapping[str, Any]) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    size = path.stat().st_size
    if size != expected["bytes"]:
        return f"{path} has {size} bytes, its manifest says {expected['bytes']}"
    digest = sha256_file(path)
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of a full or unwritable disk into a `StorageError` that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_TROUBLE and not isinstance(error, FileNotFoundError):
            raise StorageError(
                f"cannot write {error.filename or path}: {error.strerror}; make room or choose another --workspace "
                "(finished artifacts are untouched)"
            ) from error
        raise


def _clear(directory: Path) -> None:
    """Remove temporary files of processes that were killed while writing."""
    for path in directory.rglob(".*.tmp"):
        path.unlink()


def _files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
