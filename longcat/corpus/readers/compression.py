"""Compressed files, decompressed as a stream; one that is cut off or damaged is never taken for a shorter one."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from longcat.errors import DataError
from longcat.unpacking import Allowance

CHUNK_BYTES = 1 << 20
_ZSTANDARD_BYTES = 1 << 12
"""Bytes that zstandard gets at once; at worst they are 128 MB when they are decompressed, which it does in one piece."""


def chunks(stream: IO[bytes], path: Path) -> Iterator[bytes]:
    """Read a stream from where it stands in chunks, decompressed where the suffix of `path` says .gz or .zst.

    Raises:
        DataError: the file is cut off or damaged, or far larger than compressed text can be.
    """
    suffix = path.suffix.lower()
    if suffix in _DECOMPRESSED:
        allowance = Allowance(str(path), stream.tell)
        for chunk in _DECOMPRESSED[suffix](stream, path):
            allowance.take(len(chunk))
            yield chunk
    else:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _gzip(stream: IO[bytes], path: Path) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=stream) as plain:
            while chunk := plain.read(CHUNK_BYTES):
                yield chunk
    except EOFError:
        raise DataError(f"{path} is cut off: the gzip stream has no end; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not an intact gzip file ({error}); fetch it again") from None


def _zstandard(stream: IO[bytes], path: Path) -> Iterator[bytes]:
    """Decompress frame by frame, because zstandard's own stream reader takes a cut-off frame for its end."""
    import zstandard

    frame = None
    try:
        while chunk := stream.read(_ZSTANDARD_BYTES):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(chunk)
                chunk = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise DataError(f"{path} is not an intact zstd file ({error}); fetch it again") from None
    if frame is not None:
        raise DataError(f"{path} is cut off: the zstd stream has no end; fetch it again")


_DECOMPRESSED = {".gz": _gzip, ".zst": _zstandard}
