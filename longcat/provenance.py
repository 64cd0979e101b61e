"""Provenance of results: the source files behind a stage, found from its imports, and the git commit."""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""Folder that holds this package: the repository, in a checkout."""
DATA = ROOT / "longcat" / "data"
"""Tables, evaluation tasks and recipes that are shipped; a checkout keeps them in `data/`, to which this is a link."""
PACKAGE = "longcat"


def code_of(*modules: str) -> tuple[Path, ...]:
    """Return the files of modules of this package and of all its modules that they import, directly or indirectly.

    Imports inside functions count, imports for type checkers only do not.
    """
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in files:
            continue
        path = _file(name)
        if path is None:  # a name inside a module
            continue
        files[name] = path
        waiting += _imports(path)
        waiting += [name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)]  # packages run first
    return tuple(sorted(files.values()))


def code_behind(file: Path) -> tuple[Path, ...]:
    """Return the files of this package that a file of somebody else's imports, directly or indirectly."""
    return code_of(*_imports(file))


def source_hashes(files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of files, by their path in the repository."""
    hashes = {}
    for path in sorted(files):
        with path.open("rb") as stream:
            hashes[str(path.relative_to(ROOT))] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def git_commit() -> str | None:
    """Return the checked-out commit of longcat, with `-dirty` appended when files differ; None outside a repository."""
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def git_remote() -> str | None:
    """Return the address that longcat's repository was cloned from; None outside a repository, or in one without a remote."""
    return _git("config", "--get", "remote.origin.url")


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10, check=False
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imports(path: Path) -> list[str]:
    status = path.stat()
    return _parse_imports(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _parse_imports(path: Path, _modified: int, _size: int) -> list[str]:
    """List the names that a file imports from this package."""
    imported = []
    for node in _runtime_nodes(ast.parse(path.read_bytes())):
        match node:
            case ast.Import(names=names):
                imported += [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), names=names, level=0):
                imported += [module, *(f"{module}.{alias.name}" for alias in names)]
    return [name for name in imported if name.split(".")[0] == PACKAGE]


def _runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node but those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _runtime_nodes(child)
