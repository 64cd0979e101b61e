"""Provenance of results: the source files behind a stage, found from its imports, and the git commit."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""Folder that holds this package: the repository, in a checkout."""
DATA = (ROOT / "longcat" / "data").resolve()
"""Tables, evaluation tasks and recipes that are shipped; a checkout keeps them in `data/`, to which this is a link."""
PACKAGE = "longcat"


def code_of(*modules: str) -> tuple[Path, ...]:
    """Return the files of modules of this package and of all its modules that they import, directly or indirectly.

    Imports inside functions count, imports for type checkers only do not.
    """
    return _code(modules, ROOT, PACKAGE)


def hashes_of_others(*modules: str) -> dict[str, str]:
    """Return the SHA-256 of the sources of other packages' modules, with all that they import of their own package.

    Modules that are not installed count with what they import from the folder that they lie in.

    Args:
        modules: their names; one without a source, as of a module in C, is left out.

    Returns:
        Hashes by path from the folder that the package lies in.
    """
    hashes = {}
    for module in modules:
        package = module.partition(".")[0]
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            continue
        if spec is None or package == PACKAGE or package in sys.stdlib_module_names:
            continue
        places = spec.submodule_search_locations or ([spec.origin] if spec.has_location and spec.origin else [])
        for root in {Path(place).parent for place in places}:
            installed = str(root) in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
            for path in _code([module], root, package if installed else None):
                hashes[path.relative_to(root).as_posix()] = _sha256(path)
    return hashes


def _code(modules: Iterable[str], root: Path, package: str | None) -> tuple[Path, ...]:
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in files:
            continue
        path = _file(name, root)
        if path is None:  # a name inside a module
            continue
        files[name] = path
        waiting += _imports(path, package, name)
        waiting += [name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)]  # packages run first
    return tuple(sorted(files.values()))


def code_behind(file: Path) -> tuple[Path, ...]:
    """Return the files of this package that a file of somebody else's imports, directly or indirectly."""
    return code_of(*_imports(file, PACKAGE, file.stem))


def source_hashes(files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of files, by their path in the repository."""
    hashes = {}
    for path in sorted(files):
        hashes[str(path.relative_to(ROOT))] = _sha256(path)
    return hashes


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


def _file(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imports(path: Path, package: str | None, name: str) -> list[str]:
    """List the names that the file of a module imports from a package, or from any."""
    status = path.stat()
    inside = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = _parse_imports(path, inside, status.st_mtime_ns, status.st_size)
    return [imported for imported in found if package in (None, imported.split(".")[0])]


@lru_cache(maxsize=1024)
def _parse_imports(path: Path, inside: str, _modified: int, _size: int) -> list[str]:
    """List the names that a file imports; `inside` is the package that it is in."""
    imported = []
    for node in _runtime_nodes(ast.parse(path.read_bytes())):
        match node:
            case ast.Import(names=names):
                imported += [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                parts = inside.split(".")
                above = parts[: len(parts) - level + 1] if level else []
                base = ".".join([*above, *([module] if module else [])])
                imported += [base, *(f"{base}.{alias.name}" for alias in names)]
    return imported


def _runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node but those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _runtime_nodes(child)
