"""A repository, rewritten into a new folder; the old one is only read."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longcat import __version__
from longcat.artifact import sha256_file
from longcat.disk import disk_errors, remove, temporary_name, write_text
from longcat.errors import UserError
from longcat.port.files import RECORD, check_input, left_out
from longcat.port.findings import Finding, Unread, counts, efforts
from longcat.port.scanning import Read, examine_all, known_support
from longcat.progress import Reporter, no_progress


@dataclass
class Rewrite:
    """What a rewrite did."""

    root: Path
    out: Path | None
    changed: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    diff: list[str] = field(default_factory=list)

    @property
    def left(self) -> list[Finding]:
        """Return the findings whose lines stay and that ask for something."""
        return [one for one in self.findings if not one.edits and one.effort != "none"]

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json` and the record."""
        return {
            "root": str(self.root),
            "out": None if self.out is None else str(self.out),
            "changed": self.changed,
            "rewritten": sum(bool(one.edits) for one in self.findings),
            "left": [one.as_json() for one in self.left],
            "left_by_class": counts(self.left),
            "left_by_effort": efforts(self.left),
            "unread": [{"file": one.file, "line": one.line, "why": one.why} for one in self.unread],
        }


def check_output(root: Path, out: Path) -> None:
    """Refuse a folder that is there already, or that lies inside of what is read.

    Raises:
        UserError: it says which of the two, and what would be right.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"--out {out}: it is there already; name a new folder, as nothing is overwritten")
    inside = root.resolve() if root.is_dir() else None
    if inside is not None and out.resolve().is_relative_to(inside):
        raise UserError(f"--out {out}: it lies inside {root}, which is only read; name a folder beside it")
    if not out.resolve().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.resolve().parent}")


def rewrite(
    root: Path,
    out: Path | None,
    *,
    python: str | None = None,
    vendored: bool = False,
    with_diff: bool = False,
    report: Reporter = no_progress,
) -> Rewrite:
    """Rewrite a repository into a new folder, which appears when it is whole.

    Environments, caches and the history are not copied; all else is, links as links. What cannot be read or is not sure
    stays as it is, to the last byte.

    Args:
        root: folder or file; never written to.
        out: the new folder; None to write nothing.
        python: as for `scan`.
        vendored: also rewrite folders of others' code.
        with_diff: keep the differences.
        report: gets the progress.

    Raises:
        UserError: there is no such folder, or `out` is there, or lies inside it.
    """
    check_input(root)
    if out is None:
        return _read(root, None, python, vendored, with_diff, report)
    check_output(root, out)
    with disk_errors(out, "another --out"):
        temporary = temporary_name(out.resolve())
        try:
            result = _read(root, temporary, python, vendored, with_diff, report)
            result.out = out
            record = result.as_json() | {
                "longcat": __version__,
                "root": str(root.resolve()),
                "files": _hashes(root, result),
            }
            write_text(temporary / RECORD, json.dumps(record, indent=2) + "\n")  # names of files need not be UTF-8
            os.rename(temporary, out)
        finally:
            if temporary.exists():
                remove(temporary)
    return result


def _read(
    root: Path, folder: Path | None, python: str | None, vendored: bool, with_diff: bool, report: Reporter
) -> Rewrite:
    result = Rewrite(root, None)
    if folder is not None:
        result.unread += _copy(root, folder)
    support, _ = known_support(python)
    for one in examine_all(root, support, vendored, report):
        if isinstance(one, Unread):
            result.unread.append(one)
        elif one.unread is not None:
            result.unread.append(one.unread)
        else:
            result.findings += one.findings
            if one.after != one.before:
                result.changed.append(one.source.name)
                if with_diff:
                    result.diff += _diff(one)
                if folder is not None:
                    (folder / one.source.name).write_bytes(one.after)
    return result


def _copy(root: Path, folder: Path) -> list[Unread]:
    """Copy what is to be kept: everything but environments, caches and the history; return the links to what is not copied."""
    if root.is_file():
        folder.mkdir()
        shutil.copy2(root, folder / root.name)
        return []

    def unwanted(where: str, names: list[str]) -> set[str]:
        paths = {name: Path(where) / name for name in names}
        return {
            name
            for name, path in paths.items()
            if (path.is_dir() and not path.is_symlink() and left_out(path, vendored=True) is not None)
            or not (path.is_symlink() or path.is_file() or path.is_dir())  # sockets, pipes
        }

    shutil.copytree(root, folder, symlinks=True, ignore=unwanted)
    uncopied = list[Unread]()
    for path in (folder, *sorted(folder.rglob("*"))):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o200)  # a read-only repository makes none that cannot be removed
        elif not _lead(path, root.resolve(), folder):
            why = f"a link to {path.readlink()}, which is not copied"
            uncopied.append(Unread(path.relative_to(folder).as_posix(), 0, why))
    return uncopied


def _lead(link: Path, root: Path, folder: Path) -> bool:
    """Make a copied link lead to the copy where the original leads within its folder, and else to the same place.

    Returns:
        False if it leads to what of the original's folder is not copied.
    """
    try:
        meant = _next(root / link.relative_to(folder))
        if not os.path.lexists(meant):
            return True
        if meant.is_relative_to(root):
            meant = folder / meant.relative_to(root)
            if not os.path.lexists(meant):
                return False
        if _next(link) != meant:
            link.unlink()
            link.symlink_to(os.path.relpath(meant, link.parent) if meant.is_relative_to(folder) else meant)
    except (OSError, RuntimeError):  # a circle of links
        pass
    return True


def _next(link: Path) -> Path:
    """Return the path that a link leads to at once, which may be another link."""
    target = link.parent / link.readlink()
    return target.resolve() if target.name == ".." else target.parent.resolve() / target.name


def _diff(one: Read) -> Iterator[str]:
    before, after = (  # lines as `patch` has them
        re.findall(r"[^\n]*\n|[^\n]+", content.decode("utf-8", "replace")) for content in (one.before, one.after)
    )
    for line in difflib.unified_diff(before, after, f"a/{one.source.name}", f"b/{one.source.name}"):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _hashes(root: Path, result: Rewrite) -> dict[str, str]:
    """Return the hashes of the files that were changed, before."""
    folder = root if root.is_dir() else root.parent
    return {name: sha256_file(folder / name) for name in result.changed}
