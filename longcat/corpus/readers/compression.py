"""Compressed files, decompressed as a stream; one that is cut off or damaged is never taken for a shorter one."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from longcat.corpus.readers.format import File
from longcat.errors import DataError
from longcat.unpacking import Allowance

CHUNK_BYTES = 1 << 20
_PACKED_BYTES = 1 << 12
"""Bytes that are decompressed at once; at worst they become 128 MB, which some libraries make in one piece."""
_LONGEST_WINDOW = 1 << 31
"""Bytes of the largest window of zstd (`zstd --long=31`); memory is taken only where a frame needs it."""
_XZ_MEMORY = 1 << 30
"""Bytes that a file of xz may ask for; its strongest preset takes 65 MB."""


def chunks(stream: IO[bytes], file: File) -> Iterator[bytes]:
    """Read a stream from where it stands in chunks, decompressed where the name of `file` has one of `COMPRESSIONS`.

    Raises:
        DataError: the file is cut off or damaged, or far larger than compressed text can be.
    """
    kind = compression(file.name)
    if kind is None:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
        return
    packed = _Counted(stream)
    allowance = Allowance(str(file), lambda: packed.bytes)
    for chunk in COMPRESSIONS[kind](packed, file):
        allowance.take(len(chunk))
        yield chunk


def compression(name: str) -> str | None:
    """Return the suffix of a file name that says how the file is compressed; None if it is not."""
    name = name.lower()
    return next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), None)


class _Counted:
    """A stream that counts the bytes that were read from it."""

    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self.bytes += len(content)
        return content

    def close(self) -> None:
        """Leave the stream open: whoever opened it closes it."""


@dataclass(frozen=True)
class _Frames:
    """A format of frames that follow one another, each with an end of its own."""

    name: str
    frame: Callable[[], Any]
    """Makes the decompressor of a frame."""
    error: Callable[[], type[Exception]]
    padded: bool = False
    """Whether zero bytes may follow a frame."""

    def __call__(self, stream: _Counted, file: File) -> Iterator[bytes]:
        frame, frames = None, 0
        try:
            while chunk := stream.read(_PACKED_BYTES):
                while chunk:
                    if frame is None:
                        chunk = chunk.lstrip(b"\0") if self.padded and frames else chunk
                        if not chunk:
                            break
                        frame = self.frame()
                    yield frame.decompress(chunk)
                    chunk = frame.unused_data if frame.eof else b""
                    if frame.eof:
                        frame, frames = None, frames + 1
        except (self.error(), MemoryError) as error:
            raise _damaged(file, self.name, error) from None
        if frame is not None:
            raise DataError(f"{file} is cut off: the {self.name} stream has no end; fetch it again")


def _lz4(stream: _Counted, file: File) -> Iterator[bytes]:
    import pyarrow as pa

    try:
        with pa.CompressedInputStream(pa.PythonFile(stream, "r"), "lz4") as plain:
            while chunk := plain.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        if "Truncated" in str(error):
            raise DataError(f"{file} is cut off: the lz4 stream has no end; fetch it again") from None
        raise _damaged(file, "lz4", error) from None


def _damaged(file: File, name: str, error: BaseException) -> DataError:
    return DataError(f"{file} is not an intact {name} file ({error or 'no memory'}); fetch it again")


def _zstandard_frame() -> Any:
    import zstandard

    # frame by frame, because zstandard's own stream reader takes a cut-off frame for its end
    return zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW).decompressobj()


def _zstandard_error() -> type[Exception]:
    import zstandard

    error: type[Exception] = zstandard.ZstdError
    return error


COMPRESSIONS: dict[str, Callable[[_Counted, File], Iterator[bytes]]] = {
    ".gz": _Frames("gzip", lambda: zlib.decompressobj(zlib.MAX_WBITS | 16), lambda: zlib.error, padded=True),
    ".bz2": _Frames("bzip2", bz2.BZ2Decompressor, lambda: OSError),
    ".xz": _Frames(
        "xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY), lambda: lzma.LZMAError, padded=True
    ),
    ".zst": _Frames("zstd", _zstandard_frame, _zstandard_error),
    ".lz4": _lz4,
}
"""How files are decompressed, by the suffix that follows the format's own."""
