"""Files that are written as a whole or not at all, and what it means when a disk refuses to take them."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from longcat.errors import LongcatError, StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FAILING = _FULL | {errno.EROFS, errno.EIO, errno.ESTALE}
_NO_FILE = {errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
_REFUSED = _FAILING | _NO_FILE | {errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENXIO}
_PROBE_BYTES = 1 << 20
"""Bytes that a file system has to take if it is not full; a write that fails for lack of room leaves less."""
NO_ROOM = errno.ENOSPC
"""Exit code of a process that has no room to write down why it failed."""
WORKSPACE = "another --workspace (finished artifacts are untouched)"
"""What to choose instead of a workspace that takes no more files."""
TEMPORARY = ".*.tmp"
"""Pattern of the names of temporary files and folders."""


def storage_error(error: BaseException, path: Path, instead: str = WORKSPACE) -> StorageError | None:
    """Return what to tell the user if an exception was caused by the disk, else None.

    Libraries raise errors of their own when a write fails. They are known by their text, or by a disk that is full.

    Args:
        error: the exception.
        path: file or folder that was being written, named where the exception names none.
        instead: what to choose in its place.
    """
    if isinstance(error, LongcatError | FileNotFoundError | KeyboardInterrupt | SystemExit | GeneratorExit):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return _refusal(error, path, instead) if error.errno in _REFUSED else None
    if (refused := failing_disk(error, path, instead)) is not None:
        return refused
    # torch's exception of a failed checkpoint is no Exception; others of that kind are requests to stop
    return trouble(path, instead) if isinstance(error, Exception) or hasattr(error, "failures") else None


def failing_disk(error: BaseException, path: Path, instead: str = WORKSPACE) -> StorageError | None:
    """Return what to tell the user if an exception itself says that a disk is full, failing or read-only, else None.

    Args:
        error: the exception.
        path: named where the exception names none.
        instead: what to choose in its place.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return _refusal(error, path, instead) if error.errno in _FAILING else None
    if isinstance(error, LongcatError):
        return None
    return refusal_in(str(error), path, instead)


def refusal_in(text: str, path: Path, instead: str = WORKSPACE) -> StorageError | None:
    """Return what to tell the user if a message says that a disk is full, failing or read-only, else None."""
    number = next((one for one in sorted(_FAILING) if os.strerror(one) in text), None)
    return None if number is None else _refusal(OSError(number, os.strerror(number)), path, instead)


def trouble(path: Path, instead: str = WORKSPACE) -> StorageError | None:
    """Return why no file can be written into a folder (or beside a file), or None if one can: one is written and removed.

    A process whose disk is full cannot leave word of it there; this finds out in its place.
    """
    folder = path
    while not folder.is_dir():
        folder = folder.parent
    probe = temporary_name(folder / "probe")
    try:
        with _unlinked(probe), _new_file(probe) as stream:
            stream.write(bytes(_PROBE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return _refusal(error, folder, instead)
    return None


def _refusal(error: OSError, path: Path, instead: str) -> StorageError:
    full = "no space left, " if error.errno in _FULL else ""
    verb = "read or write" if error.errno in (errno.EIO, errno.ESTALE) else "write"
    name = error.filename2 or error.filename or path
    remedy = f"{'' if error.errno in _NO_FILE else 'make room or '}choose {instead}"
    return StorageError(f"{full}cannot {verb} {name}: {error.strerror}; {remedy}")


@contextmanager
def disk_errors(path: Path, instead: str = WORKSPACE) -> Iterator[None]:
    """Turn errors of a full, failing or unwritable disk into a `StorageError` that names the path and what to choose `instead`."""
    try:
        yield
    except BaseException as error:
        refused = storage_error(error, path, instead)
        if refused is None:
            raise
        raise refused from error


# ---------------------------------------------------------------------------------------------------- writing


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` that nobody can foresee; `TEMPORARY` matches it."""
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")


@contextmanager
def _unlinked(path: Path) -> Iterator[None]:
    """Remove a file when the context ends, if it is still there."""
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()


def _new_file(path: Path) -> IO[bytes]:
    """Create a file that is not there; a link of this name is not followed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    return os.fdopen(descriptor, "wb")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file as a whole: readers find the old or the new one, also after a power failure.

    A device or a pipe, such as /dev/stdout, is written to and stays what it is.

    Yields:
        A stream to write the new content to; if the block fails, the old content stays.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            yield stream
        return
    temporary = temporary_name(path)
    with _unlinked(temporary):
        with _new_file(temporary) as stream:
            yield stream
            stream.flush()
            _force(stream.fileno())
        os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole, in UTF-8."""
    with replacing(path) as stream:
        stream.write(text.encode())


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content as a whole; the copy can be written whatever the mode of the source."""
    with source.open("rb") as content, replacing(target) as stream:
        shutil.copyfileobj(content, stream, 1 << 20)


def sync(path: Path) -> None:
    """Force a file or a folder to the disk; a file may be read-only."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _force(descriptor)
    finally:
        os.close(descriptor)


def _force(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # some file systems have no such thing
            raise


def sync_all(folder: Path) -> None:
    """Force a folder with all that is in it to the disk."""
    for path in (folder, *folder.rglob("*")):
        if path.is_file() or path.is_dir():
            sync(path)


def remove(path: Path) -> None:
    """Remove a file or a folder with what is in it; what is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_whole(path: Path) -> None:
    """Remove a folder so that nobody ever finds half of it: it loses its name first.

    What is left of it if this is interrupted goes with the temporary files beside it, see `clear_temporaries`.
    """
    away = temporary_name(path)
    os.rename(path, away)
    sync(path.parent)
    remove(away)


def clear_temporaries(folder: Path, *, deep: bool) -> None:
    """Remove temporary files and folders of processes that were killed while writing.

    Args:
        folder: where to look; only whoever alone may write in it calls this.
        deep: look in all folders below, too.
    """
    for path in list(folder.rglob(TEMPORARY) if deep else folder.glob(TEMPORARY)):
        remove(path)


# ---------------------------------------------------------------------------------------------------- privacy


def private_mask(folder: Path) -> int:
    """Return the umask for what is written in a folder: its user's alone, or its group's if that may write there.

    A folder in which everybody may write, as /tmp, is no group's.
    """
    mode = folder.stat().st_mode
    return 0o007 if mode & stat.S_IWGRP and not mode & stat.S_IWOTH else 0o077


@contextmanager
def private_files(folder: Path) -> Iterator[None]:
    """Keep what this process and its children write while the context is open from other users, see `private_mask`."""
    before = os.umask(private_mask(folder))
    try:
        yield
    finally:
        os.umask(before)


def check_can_be_folder(path: Path, option: str) -> None:
    """Refuse a path that is no folder and cannot become one, because it or one above it is a file.

    Args:
        path: that is to be a folder.
        option: that names it, for the message.

    Raises:
        StorageError: it names the file.
    """
    for one in (path, *path.parents):
        if os.path.lexists(one) and not one.is_dir():
            raise StorageError(f"{path} cannot be a folder because {one} is a file; choose another {option}")


def private_folder(path: Path) -> Path:
    """Make a folder that other users cannot open, if it is not there, and return its path; see `private_mask`."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o777 & ~private_mask(path.parent), exist_ok=True)
    return path
