"""SHA-256 of files that are unchanged, remembered from one command to the next.

A file is taken for unchanged while its device, inode, size, and times of the last change of content and of its entry are
the same, as git's index does; the last of these changes even when somebody sets the time of content back. A file that
was changed less than `FRESH_S` before it was hashed is not remembered: it could be changed again within the resolution
of a file system's clock. What this cannot see is a disk that loses bits; `LONGCAT_REHASH=1` has everything hashed, and so
does `longcat verify`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

FRESH_S = 2.0
"""The coarsest clock of a file system that is in use, that of FAT."""
REHASH = "LONGCAT_REHASH"
"""Environment variable that has all files hashed, unless it is empty or 0."""
_KEPT_S = 10.0
_TABLE = """CREATE TABLE IF NOT EXISTS hashes (device TEXT, inode TEXT, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,
sha256 TEXT NOT NULL, PRIMARY KEY (device, inode)) WITHOUT ROWID"""
_Stamp = tuple[str, str, int, int, int]


class HashMemory:
    """Hashes of files in an SQLite database; threads may share it. One that cannot be used costs time, nothing else."""

    def __init__(self, path: Path) -> None:
        """Use the database at a path, which is made when there is something to remember."""
        self._path = path
        self._lock = threading.Lock()
        self._new: dict[tuple[str, str], tuple[_Stamp, str]] = {}
        self._saved = time.monotonic()

    def __reduce__(self) -> tuple[type[HashMemory], tuple[Path]]:
        return HashMemory, (self._path,)

    def sha256(self, path: Path, compute: Callable[[Path], str]) -> str:
        """Return the SHA-256 of a file, in hex: the one remembered, or else what `compute` finds.

        Raises:
            OSError: the file cannot be read.
        """
        before = _stamp(path)
        if (known := self._look_up(before)) is not None:
            return known
        found = compute(path)
        changed_ns = max(before[3:])
        if _stamp(path) == before and changed_ns < time.time_ns() - int(FRESH_S * 1e9):
            with self._lock:
                self._new[before[:2]] = before, found
                if time.monotonic() - self._saved > _KEPT_S:
                    self._save()
        return found

    def save(self) -> None:
        """Write down what was hashed."""
        with self._lock:
            self._save()

    def _look_up(self, stamp: _Stamp) -> str | None:
        if os.environ.get(REHASH, "0") not in ("", "0"):
            return None
        with self._lock:
            known, sha256 = self._new.get(stamp[:2], (None, ""))
        if known == stamp:
            return sha256
        if not self._path.is_file():
            return None
        try:
            with closing(sqlite3.connect(f"file:{self._quoted()}?mode=ro", uri=True, timeout=5)) as database:
                row = database.execute(
                    "SELECT size, mtime_ns, ctime_ns, sha256 FROM hashes WHERE device = ? AND inode = ?", stamp[:2]
                ).fetchone()
        except sqlite3.Error:
            return None
        return str(row[3]) if row is not None and row[:3] == stamp[2:] else None

    def _save(self) -> None:
        self._saved = time.monotonic()
        if not self._new:
            return
        rows = [(*stamp, sha256) for stamp, sha256 in self._new.values()]
        try:
            with closing(sqlite3.connect(self._path, timeout=5)) as database, database:
                database.execute(_TABLE)
                database.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.DatabaseError as error:
            if not isinstance(error, sqlite3.OperationalError):  # no database, or a broken one
                with suppress(OSError):
                    self._path.unlink()
        self._new.clear()

    def _quoted(self) -> str:
        return str(self._path).replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    # numbers of inodes may be larger than SQLite's
    return str(status.st_dev), str(status.st_ino), status.st_size, status.st_mtime_ns, status.st_ctime_ns
