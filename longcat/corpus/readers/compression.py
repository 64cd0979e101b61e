"""Compressed files, decompressed as a stream; one that is cut off or damaged is never taken for a shorter one."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from longcat.errors import DataError

CHUNK_BYTES = 1 << 20


def chunks(stream: IO[bytes], path: Path) -> Iterator[bytes]:
    """Read a stream from where it stands in chunks, decompressed where the suffix of `path` says .gz or .zst.

    Raises:
        DataError: the file is cut off or damaged.
    """
    suffix = path.suffix.lower()
    if suffix == ".gz":
        yield from _gzip(stream, path)
    elif suffix == ".zst":
        yield from _zstandard(stream, path)
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
        while chunk := stream.read(CHUNK_BYTES):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(chunk)
                chunk = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise DataError(f"{path} is not an intact zstd file ({error}); fetch it again") from None
    if frame is not None:
        raise DataError(f"{path} is cut off: the zstd stream has no end; fetch it again")
