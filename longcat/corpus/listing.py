"""The files that a path names: a file, a folder with all below it, or a pattern; nothing is left out without a word."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec.utils import glob_translate

from longcat.corpus.readers import file_suffix, formats_in_words
from longcat.corpus.readers.compression import compression
from longcat.corpus.readers.format import File
from longcat.errors import DataError

HIDDEN, NO_SUFFIX, NO_FILE = "hidden", "no suffix", "no regular file"
_MAGIC = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Listing:
    """Files of a source."""

    files: Sequence[Any]
    """`File`s: those that are read, in this order."""
    left_out: Counter[str] = field(default_factory=Counter)
    """How many others there are, by suffix; a hidden folder counts as one."""


def list_path(path: Path, where: str) -> Listing:
    """List what a path of this machine names.

    Args:
        path: a file, a folder, or a pattern with `*`, `?`, `[...]` or `**`.
        where: what it is called in messages.

    Raises:
        DataError: there is no such file, nothing that can be read, a broken link, or a link to a folder around it.
    """
    if path.is_dir():
        listing = _sort(_walk(path, ()), path)
        problem = "holds no file that can be read"
    elif path.is_file():
        listing = Listing([path] if file_suffix(path) else [])
        problem = "has a format that is not read"
    elif _MAGIC.search(str(path)):
        listing = _matches(path, where)
        problem = "matches no file that can be read"
    else:
        link = "is a broken link" if path.is_symlink() else "does not exist"
        raise DataError(f"{where} {link} (relative paths start at {Path.cwd()})")
    if not listing.files:
        others = f"; there are {in_words(listing.left_out)}" if listing.left_out else ""
        raise DataError(f"{where} {problem}{others}; {formats_in_words()}")
    return listing


def walk(root: Path, skip: Collection[str] = ()) -> list[Path]:
    """List the files below a folder in the order of their paths, without hidden files and folders and those in `skip`.

    Raises:
        DataError: a folder cannot be read, a link is broken, or one leads to a folder around it.
    """
    return _in_order([path for path in _walk(root, skip) if _kind(path) not in (HIDDEN, NO_FILE)], root)


def in_words(left_out: Counter[str]) -> str:
    """Describe the files that are not read."""
    return ", ".join(f"{count:,} {suffix}" for suffix, count in left_out.most_common())


def _matches(pattern: Path, where: str) -> Listing:
    """List what a pattern matches; folders that match are walked."""
    parts = pattern.absolute().parts
    fixed = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    root = Path(*parts[:fixed])
    if not root.is_dir():
        raise DataError(f"{where} matches nothing: there is no folder {root}")
    match = re.compile(glob_translate("/".join(parts[fixed:]))).match
    found = []
    for path in _walk(root, ()):
        relative = path.relative_to(root)
        # a folder that matches stands for all below it
        if any(match(str(place)) for place in (relative, *relative.parents) if place.parts):
            found.append(path)
    return _sort(iter(found), root)


def _sort(paths: Iterator[Path], root: Path) -> Listing:
    kinds = [(path, _kind(path)) for path in paths]
    files = [path for path, kind in kinds if kind is None]
    return Listing(_in_order(files, root), Counter(kind for _, kind in kinds if kind is not None))


def _in_order(files: list[Path], root: Path) -> list[Path]:
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def _kind(path: Path) -> str | None:
    """Say why a file is not read; None if it is."""
    if path.name.startswith("."):
        return HIDDEN
    if not path.is_file():
        return NO_FILE
    return None if file_suffix(path) else suffix_of(path)


def suffix_of(file: File) -> str:
    """Return the suffix that files of unknown formats are counted under."""
    name = file.name.lower()
    packed = compression(name) or ""
    return (Path(name.removesuffix(packed)).suffix + packed) or NO_SUFFIX


def _walk(folder: Path, skip: Collection[str], around: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Yield all files below a folder, those of links too, and hidden folders as such."""
    around |= {folder.resolve()}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read folder {error.filename}: {error.strerror}") from error
    for entry in entries:
        path = folder / entry.name
        if entry.name in skip:
            continue
        if entry.name.startswith("."):
            yield path
        elif entry.is_symlink() and not path.exists():
            raise DataError(f"{path} is a broken link to {path.readlink()}; mend or remove it")
        elif not entry.is_dir():
            yield path
        elif entry.is_symlink() and path.resolve() in around:
            raise DataError(f"{path} is a link to the folder {path.resolve()}, which it lies in; remove it")
        else:
            yield from _walk(path, skip, around)
