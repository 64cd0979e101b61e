"""Files behind addresses (s3://, hf://, https:// and all that fsspec knows), read as if they were on this machine."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal
from urllib.parse import unquote, urlsplit

from longcat.corpus.listing import HIDDEN, Listing, in_words, list_path, suffix_of
from longcat.corpus.readers import FORMATS, file_suffix, formats_in_words
from longcat.errors import DataError
from longcat.redaction import redact

_HTTP = ("http", "https")
_CONNECT_S, _SILENT_S = 30, 120
"""How long a server may take to accept a connection, and how long it may be silent."""
_STATED = ("ETag", "etag", "content_md5", "Content-MD5", "md5Hash", "checksum", "blob_id")
"""What stores say of a file that is another when its content is."""
_CHANGES = (*_STATED, "mtime", "LastModified", "last_modified", "updated", "created", "Last-Modified")


def is_address(text: str) -> bool:
    """Say whether a source is an address and not a path."""
    return "://" in text


@dataclass(frozen=True)
class RemoteFile:
    """A file behind an address."""

    base: str = field(repr=False)
    """The address that the source names, which may say how to get in."""
    path: str = field(repr=False)
    """Its place in the store."""

    @property
    def name(self) -> str:
        """The last part of its place."""
        path = unquote(urlsplit(self.path).path) if _protocol(self.base) in _HTTP else self.path
        return PurePosixPath(path).name

    @property
    def is_streamed(self) -> bool:
        """Whether it can only be read from its beginning: servers of http may not know ranges."""
        return _protocol(self.base) in _HTTP

    def __str__(self) -> str:
        return redact(self.path if self.is_streamed else f"{_protocol(self.base)}://{self.path.lstrip('/')}")

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Open it for reading."""
        with _errors(str(self)):
            options = {"block_size": 0} if self.is_streamed else {}
            stream: IO[bytes] = _store(self.base)[0].open(self.path, mode, **options)
            if self.is_streamed and not _is_text(self):
                with stream:
                    copy = tempfile.TemporaryFile()  # noqa: SIM115
                    shutil.copyfileobj(stream, copy)
                copy.seek(0)
                return copy
            return stream

    def stamp(self) -> tuple[int, int]:
        """Return its size in bytes, 0 if the store does not say, and a number that changes with the file."""
        store, _ = _store(self.base)
        with _errors(str(self)):
            store.invalidate_cache()
            info = store.info(self.path)
        told = repr([str(info.get(name)) for name in _CHANGES])
        return info.get("size") or 0, int.from_bytes(hashlib.sha256(told.encode()).digest()[:7])

    def pin(self) -> str:
        """Return what stands for the content: what the store states of it, or its SHA-256."""
        with _errors(str(self)):
            info = _store(self.base)[0].info(self.path)
            for name in _STATED:
                if (stated := info.get(name)) and not str(stated).startswith("W/"):
                    return f"{name.lower()}:{info.get('size')}:{stated}"
            digest = hashlib.sha256()
            with self.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
            return digest.hexdigest()


def list_address(address: str, where: str) -> Listing:
    """List the files that an address names: a file, a folder with all below it, or a pattern.

    Args:
        address: `protocol://place`.
        where: what it is called in messages.

    Raises:
        DataError: the store does not answer or has no such file, or nothing there can be read.
    """
    if _protocol(address) == "file":
        return list_path(Path(unquote(urlsplit(address).path)), where)
    check_address(address, where)
    with _errors(where):
        store, path = _store(address)
        if file_suffix(RemoteFile(address, path)) and "*" not in path:
            paths = [path]
        else:
            roots = store.glob(path) if "*" in path else [path]
            paths = sorted({found for root in roots for found in (store.find(root) or [root])})
        if paths == [path] and not store.exists(path):
            raise DataError(f"{where} does not exist")
    files: list[RemoteFile] = []
    left_out: Counter[str] = Counter()
    for found in paths:
        file = RemoteFile(address, found)
        if any(part.startswith(".") for part in PurePosixPath(found.removeprefix(path)).parts):
            left_out[HIDDEN] += 1
        elif file_suffix(file):
            files.append(file)
        else:
            left_out[suffix_of(file)] += 1
    if not files:
        others = f"; there are {in_words(left_out)}" if left_out else ""
        raise DataError(f"{where} names no file that can be read{others}; {formats_in_words()}")
    return Listing(files, left_out)


def check_address(address: str, where: str) -> None:
    """Refuse an address whose protocol cannot be read, without asking the network.

    Raises:
        DataError: there is no such protocol, or its package is missing.
    """
    import fsspec

    protocol = _protocol(address)
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise DataError(f"{where}: {protocol}:// needs a package that is not installed ({error})") from None
    except ValueError:
        raise DataError(f"{where}: {protocol}:// is no protocol that fsspec knows; fetch the files") from None


def _protocol(address: str) -> str:
    return address.partition("://")[0].lower()


def _is_text(file: RemoteFile) -> bool:
    return not any(file.name.lower().endswith(known.suffixes) for known in FORMATS if not known.compressible)


def _store(address: str) -> tuple[Any, str]:
    """Open the store of an address; returns it and the place in it."""
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if _protocol(address) in _HTTP:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENT_S)
        options["client_kwargs"] = {"timeout": timeout}
    store, path = url_to_fs(address, **options)
    return store, path


@contextmanager
def _errors(where: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{where} does not exist") from None
    except Exception as error:  # whatever a store's client and its transport may raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(redact(f"{where} cannot be read: {reason}")) from None
