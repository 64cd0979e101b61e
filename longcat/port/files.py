"""Files of a repository: which are read, as what, and which are not."""

from __future__ import annotations

import codecs
import os
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from longcat.errors import DataError, UserError
from longcat.port.findings import Unread

MOST_BYTES = 4 << 20
"""Larger files are not read: they are data."""
MOST_PYTHON_BYTES = 1 << 20
"""The same for Python, whose tree takes about a thousand times the text's memory."""
RECORD = "longcat-port.json"
"""File of a rewritten folder that says what it was made from, and which lines are left."""
_NOT_OURS = {
    ".git", ".hg", ".svn", ".tox", ".nox", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".idea",
    "__pycache__", "node_modules", "site-packages", "dist-packages", ".eggs",
}  # fmt: skip
_VENDORED = {"third_party", "thirdparty", "3rdparty", "vendor", "vendored", "_vendor", "extern", "externals"}
_ENVIRONMENT = ("pyvenv.cfg", "conda-meta")
_KINDS: tuple[tuple[str, str], ...] = (
    (r".*\.pyi?", "python"),
    (r".*\.ipynb", "notebook"),
    (r".*\.(cu|cuh)", "cuda"),
    (r".*\.(c|cc|cpp|cxx|h|hpp)|CMakeLists\.txt|.*\.cmake", "native"),
    (r".*\.(sh|bash|zsh|slurm|sbatch|env|mk)|Makefile|makefile|justfile|\.env.*|.*\.service", "shell"),
    (r"(Docker|Container)file.*|.*\.(docker|d)ockerfile|.*\.def|.*\.dockerfile", "docker"),
    (r".*requirements.*\.(txt|in)|constraints.*\.txt|requirements/.*\.txt|pyproject\.toml|setup\.cfg|Pipfile|environment.*\.ya?ml|conda.*\.ya?ml", "packages"),
    (r".*\.(ya?ml|json|toml|ini|cfg)", "settings"),
)  # fmt: skip
"""What a file is by its name; the first one that fits."""
_PATTERNS = [(re.compile(pattern), kind) for pattern, kind in _KINDS]
_SHEBANG = re.compile(rb"#!.*\b(python[\d.]*|bash|sh|zsh)\b")


@dataclass(frozen=True)
class Source:
    """File that is to be read."""

    path: Path
    name: str
    """Path from the repository's root, with `/`."""
    kind: str
    taken: frozenset[str] = frozenset()
    """Names of it that other modules of the repository take."""


def kind_of(path: Path) -> str | None:
    """Return what a file is by its name or its first line; None for one that is of no concern."""
    kind = next((kind for pattern, kind in _PATTERNS if pattern.fullmatch(path.name)), None)
    if kind is None and not path.suffix:
        try:
            with path.open("rb") as stream:
                found = _SHEBANG.match(stream.read(64))
        except OSError:
            return None
        if found is not None:
            return "python" if found[1].startswith(b"python") else "shell"
    if kind in ("settings", None) and path.suffix == ".txt" and path.parent.name == "requirements":
        return "packages"
    return kind


def check_input(path: Path) -> None:
    """Refuse a path that is no folder and no file.

    Raises:
        UserError: it names the path.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read: permission denied")
    if path.is_file() and kind_of(path) is None:
        raise UserError(
            f"{path} is no file that longcat port reads: Python, notebooks, shell, Docker, requirements, YAML, JSON, TOML, CUDA"
        )


def walk(root: Path, vendored: bool = False) -> Iterator[Source | Unread]:
    """Yield the files to read of a repository, sorted, and the folders that are left out.

    Links to folders are not followed, so that loops and what lies outside are no matter.

    Args:
        root: folder, or one file.
        vendored: also go into folders of others' code (`third_party` and the like).
    """
    if root.is_file():
        yield _bounded(root, root.name, kind_of(root) or "settings", root.stat().st_size)
        return
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield Unread(_name(folder, root), 0, f"cannot be read: {error.strerror}")
            continue
        below = []
        for entry in entries:
            path, name = Path(entry.path), _name(Path(entry.path), root)
            try:
                if entry.is_dir(follow_symlinks=False):
                    if (reason := left_out(path, vendored)) is None:
                        below.append(path)
                    elif entry.name != "__pycache__":
                        yield Unread(f"{name}/", 0, reason)
                elif entry.is_symlink():
                    target = path.resolve(strict=False)
                    if target.is_dir() or not target.is_relative_to(root.resolve()):
                        yield Unread(name, 0, "a link, which is not followed")
                    elif not target.exists():
                        yield Unread(name, 0, "a link to nothing")
                elif entry.name == RECORD:
                    continue
                elif entry.is_file(follow_symlinks=False) and (kind := kind_of(path)) is not None:
                    yield _bounded(path, name, kind, entry.stat().st_size)
            except (OSError, RuntimeError) as error:
                yield Unread(name, 0, f"cannot be read: {getattr(error, 'strerror', None) or error}")
        waiting += reversed(below)


def _bounded(path: Path, name: str, kind: str, size: int) -> Source | Unread:
    most = MOST_PYTHON_BYTES if kind == "python" else MOST_BYTES
    return Source(path, name, kind) if size <= most else Unread(name, 0, f"larger than {most >> 20} MB: taken for data")


def left_out(path: Path, vendored: bool) -> str | None:
    """Return why a folder is not gone into; None if it is."""
    if path.name in _NOT_OURS or path.name.endswith(".egg-info"):
        return "no source of this repository"
    if any((path / mark).exists() for mark in _ENVIRONMENT):
        return "an environment of Python"
    if path.name in _VENDORED and not vendored:
        return "code of others; --vendored reads it, too"
    return None


def read(source: Source) -> tuple[str, str]:
    """Return a file's text, with its line ends as they are, and its encoding.

    Raises:
        DataError: it is binary, or in no encoding that it says; the message begins with the reason.
    """
    try:
        content = source.path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    if b"\0" in content:
        raise DataError("binary, not text")
    encoding = "utf-8-sig" if content.startswith(codecs.BOM_UTF8) else "utf-8"
    if source.kind == "python":
        try:
            encoding = tokenize.detect_encoding(iter(content.splitlines(keepends=True)).__next__)[0]
        except SyntaxError as error:
            try:
                content.decode()  # says where it fails
            except UnicodeDecodeError:
                pass
            else:
                raise DataError(f"encoding: {error.msg}") from error
    try:
        return content.decode(encoding), encoding
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"not {encoding.upper()}: byte 0x{content[error.start]:02x} in line {line}") from error
    except LookupError as error:
        raise DataError(f"encoding {encoding} is not known") from error


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
