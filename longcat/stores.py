"""SQLite databases of MLflow and Prefect in a workspace: whole under their name, or set aside under another."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from longcat.lease import lock_file

_LOCK = ".lock"
_JOURNALS = ("", "-wal", "-shm", "-journal")
_READ_WHOLE_BYTES = 64 << 20
"""Size up to which every page of a database is checked; of a larger one, its table of contents."""


def sqlite_url(path: Path, driver: str = "sqlite") -> str:
    """Return the SQLAlchemy URL of a database file, whatever characters its path has."""
    return f"{driver}:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def sqlite_path(url: str) -> Path | None:
    """Return the file that `sqlite_url` names; None for the URL of anything else."""
    return Path(unquote(url.removeprefix("sqlite:///"))) if url.startswith("sqlite:///") else None


def remove_misspelt_folder(path: Path) -> None:
    """Remove the empty folder that MLflow makes when it takes a database's URL for a path."""
    folder = Path(sqlite_url(path).removeprefix("sqlite:///")).parent
    if folder != path.parent:
        with suppress(OSError):
            os.removedirs(folder)


@contextmanager
def made_whole(path: Path) -> Iterator[Path]:
    """Give the name under which to make a database; it gets its own name when the context ends without an exception."""
    clear_half_made(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder, lock = _half_made_folder(path)
    new = folder / path.name
    try:
        yield new
        with closing(sqlite3.connect(new)) as database:  # what is in its journal goes into the file
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if not path.exists():
            os.replace(new, path)
    finally:
        remove_misspelt_folder(new)
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _half_made_folder(path: Path) -> tuple[Path, int | None]:
    """Make a folder for a database that is being made, and lock it for as long as its maker lives."""
    while True:
        folder = path.with_name(f".{path.name}.half-made-{secrets.token_hex(8)}")  # SQLAlchemy remembers names
        folder.mkdir()
        with suppress(FileNotFoundError, BlockingIOError):  # somebody has cleared it away before it was locked
            return folder, lock_file(folder / _LOCK)


def clear_half_made(path: Path) -> None:
    """Remove what processes that were killed have left of a database that they were making."""
    for folder in path.parent.glob(f".{path.name}.half-made-*"):
        with suppress(FileNotFoundError, BlockingIOError):  # it is gone, or its maker lives
            lock = lock_file(folder / _LOCK)
            if lock is not None:  # else nobody can tell
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def is_sound(path: Path) -> bool:
    """Whether a file is an SQLite database with tables; True where it cannot be told, as while it is locked."""
    whole = path.stat().st_size <= _READ_WHOLE_BYTES
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=5)) as database:
            if whole and database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return False
            return bool(database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    except sqlite3.OperationalError:
        return True
    except sqlite3.DatabaseError:
        return False


def set_aside(path: Path, why: str) -> Path:
    """Rename a database that cannot be used, with its journals, and say so; returns its new name."""
    base = f"{path.name}.unusable-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (path.with_name(base if number == 1 else f"{base}-{number}") for number in range(1, 1000))
    aside = next(name for name in names if not name.exists())
    _rename(path, aside)
    logging.getLogger("longcat").warning(
        "the database %s %s, so a new one is made; the old one is kept as %s", path, why, aside.name
    )
    return aside


def set_aside_if_damaged(path: Path) -> None:
    """Set a database aside that is there and cannot be read."""
    if path.exists() and not is_sound(path):
        set_aside(path, "is damaged")


def put_back(aside: Path, path: Path) -> None:
    """Undo `set_aside`."""
    _unlink(path)
    _rename(aside, path)
    logging.getLogger("longcat").warning("the database %s is in its place again: it was not the cause", path)


def _rename(old: Path, new: Path) -> None:
    for suffix in _JOURNALS:
        with suppress(FileNotFoundError):
            os.replace(f"{old}{suffix}", f"{new}{suffix}")


def _unlink(path: Path) -> None:
    for suffix in _JOURNALS:
        Path(f"{path}{suffix}").unlink(missing_ok=True)
