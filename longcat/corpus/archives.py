"""Unpacking of archives that somebody else has made: regular files only, inside the folder, and not without end."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Self

from longcat.errors import DataError
from longcat.unpacking import Allowance

MOST_BYTES = 16 << 30
MOST_FILES = 500_000
_CHUNK = 1 << 20
_LONGEST_HEADER = 1 << 20
"""Bytes of a header that Python's tarfile would read into memory at once."""
_BAD_NAME = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}

Wanted = Callable[[Path], object]
"""Says of a member's path whether it is unpacked."""


def unpack_tar(stream: IO[bytes], folder: Path, wanted: Wanted, where: str, packed_bytes: int) -> None:
    """Unpack the wanted files of a tar stream; links, devices and pipes are left out.

    Args:
        stream: an uncompressed tar file, read once from its beginning.
        folder: an empty folder that nobody else writes in.
        wanted: which files to unpack.
        where: the archive, for messages.
        packed_bytes: its size while it was compressed.

    Raises:
        DataError: it is damaged or too large, or a name leads out of the folder.
    """
    allowance = _allowance(where, packed_bytes)
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
            for member in archive:
                allowance.take_file()
                allowance.take(max(0, member.size))
                target = _inside(folder, member.name, where)
                if member.isfile() and wanted(Path(member.name)):
                    content = archive.extractfile(member)
                    assert content is not None
                    _write(content, target, where)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{where} cannot be unpacked: {error}") from None


def unpack_zip(file: Path, folder: Path, wanted: Wanted, where: str) -> None:
    """Unpack the wanted files of a zip file; links are left out.

    Args:
        file: the zip file.
        folder: an empty folder that nobody else writes in.
        wanted: which files to unpack.
        where: the archive, for messages.

    Raises:
        DataError: it is damaged, encrypted or too large, or a name leads out of the folder.
    """
    allowance = _allowance(where, file.stat().st_size)
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                allowance.take_file()
                target = _inside(folder, member.filename, where)
                mode = member.external_attr >> 16
                special = stat.S_IFMT(mode) not in (0, stat.S_IFREG)
                if special or member.is_dir() or not wanted(Path(member.filename)):
                    continue
                with archive.open(member) as content:
                    _write(content, target, where, allowance)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{where} cannot be unpacked: {error}") from None


class _Header(tarfile.TarInfo):
    """Header of a tar file, refused if what it announces for tarfile itself would fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (not header.isfile() and header.size > _LONGEST_HEADER):
            raise DataError(
                f"a tar file in the package announces {header.size:,} bytes that are no file, which is refused"
            )
        return header


def _allowance(where: str, packed_bytes: int) -> Allowance:
    return Allowance(where, lambda: packed_bytes, MOST_BYTES, MOST_FILES)


def _inside(folder: Path, name: str, where: str) -> Path:
    """Return the place of a member in the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
        raise DataError(f"{where} cannot be unpacked: {name!r} lies outside the destination")
    return folder.joinpath(*path.parts)


def _write(content: IO[bytes], target: Path, where: str, allowance: Allowance | None = None) -> None:
    """Write a member's content, counted if there is an allowance; what it lies in is made, never followed or replaced."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "wb") as stream:
            while chunk := content.read(_CHUNK):
                if allowance is not None:
                    allowance.take(len(chunk))
                stream.write(chunk)
    except OSError as error:
        if error.errno not in _BAD_NAME:
            raise
        raise DataError(f"{where} cannot be unpacked: {target.name[:80]!r}: {error.strerror}") from None
