"""Readers of the file formats: each yields texts, and an `Unreadable` with its place for every record that has none.

A record that cannot be read is the caller's to judge (`corpus.max_bad_share`); a file that is cut off or damaged as a
whole is a `DataError` at once, because nobody can tell how much of it is missing.
"""

from __future__ import annotations

import gzip
import io
import json
import tokenize
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from longcat.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet", ".txt")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Unreadable:
    """A record without usable text."""

    place: str
    """File and line or row, as a person would look it up."""
    reason: str


Record = str | Unreadable


def file_format(path: Path) -> str | None:
    """Which of `SUFFIXES` a file has, None when it has none of them."""
    name = path.name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default=None)


def read_file(path: Path, text_field: str) -> Iterator[Record]:
    """The records of one file in its order.

    Args:
        path: a file with one of `SUFFIXES`.
        text_field: the key (.jsonl) or column (.parquet) that holds the text.

    Raises:
        DataError: the file cannot be opened, is cut off or damaged, or (.parquet) has no such column of text.
    """
    kind = file_format(path)
    try:
        if kind == ".txt":
            yield as_text(path.read_bytes(), str(path))
        elif kind == ".parquet":
            yield from _parquet(path, text_field)
        else:
            yield from _json_lines(path, _lines(_chunks(path, kind)), text_field)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def read_python(path: Path) -> Iterator[Record]:
    """The one text of a Python source file, in the encoding that it declares (PEP 263)."""
    try:
        content = path.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        yield content.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        yield Unreadable(str(path), f"not in the encoding it declares ({error})")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def as_text(value: object, place: str) -> Record:
    """What a field holds, if it is text: a string without lone surrogates, or bytes in UTF-8."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return Unreadable(place, f"invalid UTF-8 at byte {error.start}")
    if not isinstance(value, str):
        found = "null" if value is None else type(value).__name__
        return Unreadable(place, f"the text is {found}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return Unreadable(place, f"not Unicode text: lone surrogate at character {error.start}")
    return value


# ---------------------------------------------------------------------------------------------------- .jsonl


def _chunks(path: Path, kind: str | None) -> Iterator[bytes]:
    """The uncompressed content in pieces."""
    with path.open("rb") as stream:
        if kind == ".jsonl.zst":
            yield from _unzstd(stream, path)
        elif kind == ".jsonl.gz":
            try:
                with gzip.GzipFile(fileobj=stream) as plain:
                    while piece := plain.read(_CHUNK_BYTES):
                        yield piece
            except EOFError:
                raise DataError(f"{path} is cut off: the gzip stream has no end; fetch it again") from None
            except (gzip.BadGzipFile, zlib.error) as error:
                raise DataError(f"{path} is not an intact gzip file ({error}); fetch it again") from None
        else:
            while piece := stream.read(_CHUNK_BYTES):
                yield piece


def _unzstd(stream: io.BufferedIOBase, path: Path) -> Iterator[bytes]:
    """Decompress frame by frame, because zstandard's own stream reader takes a cut-off frame for its end."""
    import zstandard

    frame = None
    try:
        while piece := stream.read(_CHUNK_BYTES):
            while piece:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(piece)
                piece = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise DataError(f"{path} is not an intact zstd file ({error}); fetch it again") from None
    if frame is not None:
        raise DataError(f"{path} is cut off: the zstd stream has no end; fetch it again")


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Split at newlines; the last line needs none."""
    pending: list[bytes] = []
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        pending.append(first)
        if rest:
            yield b"".join(pending)
            yield from rest[:-1]
            pending = [rest[-1]]
    if last := b"".join(pending):
        yield last


def _json_lines(path: Path, lines: Iterable[bytes], text_field: str) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        text = as_text(line, place)
        yield text if isinstance(text, Unreadable) else _json_text(text, place, text_field)


def _json_text(line: str, place: str, text_field: str) -> Record:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return Unreadable(place, f"broken JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return Unreadable(place, f"unusable JSON: {error}")
    if not isinstance(value, dict):
        return Unreadable(place, f"expected a JSON object, found {type(value).__name__}")
    if text_field not in value:
        return Unreadable(place, f"no field {text_field!r}; there are: {', '.join(map(str, value)) or 'none'}")
    return as_text(value[text_field], place)


# ---------------------------------------------------------------------------------------------------- .parquet


def _parquet(path: Path, text_field: str) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            names = file.schema_arrow.names
            if text_field not in names:
                raise DataError(
                    f"{path} has no column {text_field!r}; there are: {', '.join(names) or 'none'} "
                    "(choose one with the source's `text_field`)"
                )
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[text_field]):
                for value in batch.column(0):
                    # taken from the buffer as bytes: pyarrow writes and reads strings without checking their UTF-8
                    content = value.as_buffer().to_pybytes() if hasattr(value, "as_buffer") and value.is_valid else None
                    yield as_text(value.as_py() if content is None else content, f"{path}, row {row}")
                    row += 1
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise DataError(f"{path} is not an intact parquet file ({error})") from None
