"""Readers of the file formats: each yields texts, and an `Unreadable` with its place for every record that has none.

A record that cannot be read is the caller's to judge (`corpus.max_bad_fraction`); a file that is cut off or damaged as a
whole is a `DataError` at once, because nobody can tell how much of it is missing.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import tokenize
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from longcat.corpus.markup import html_text, man_text
from longcat.errors import DataError

_MANUAL = tuple(f".{section}{packed}" for section in range(1, 9) for packed in ("", ".gz"))
_WHOLE = (".txt", ".py", ".html", ".htm", *_MANUAL)
"""A file is one document."""
SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet", ".arrow", *_WHOLE)
_CHUNK_BYTES = 1 << 20
_BATCH_ROWS = 64


@dataclass(frozen=True)
class Unreadable:
    """A record without usable text."""

    place: str
    """File and line or row, as a person would look it up."""
    reason: str


@dataclass(frozen=True)
class Oversized:
    """A record so long that it was not held in memory."""

    place: str


Record = str | Unreadable | Oversized


def file_format(path: Path) -> str | None:
    """Which of `SUFFIXES` a file has, None when it has none of them."""
    name = path.name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default=None)


def read_file(
    path: Path, text_field: str, encodings: list[str], record_bytes: int, begin: int = 0, end: int | None = None
) -> Iterator[Record]:
    """The records of one file in its order.

    Args:
        path: a file with one of `SUFFIXES`.
        text_field: the key (.jsonl) or column (.parquet, .arrow) that holds the text.
        encodings: tried in this order on bytes.
        record_bytes: longer lines, files and values are `Oversized`.
        begin: first byte of the lines to read (.jsonl), or row group (.parquet).
        end: the byte or row group after the last.

    Raises:
        DataError: the file cannot be opened, is cut off or damaged, or has no such column of text.
    """
    kind = file_format(path)
    try:
        if kind in (".parquet", ".arrow"):
            yield from _columns(path, kind, text_field, encodings, record_bytes, begin, end)
        elif kind in _WHOLE:
            long = path.stat().st_size > record_bytes
            yield Oversized(str(path)) if long else _document(path, kind, encodings)
        else:
            yield from _json_lines(path, kind, text_field, encodings, record_bytes, begin, end)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _document(path: Path, kind: str, encodings: list[str]) -> Record:
    """The one text of a file."""
    content = path.read_bytes()
    if kind == ".py":
        return _python(content, str(path))
    if kind in (".html", ".htm"):
        try:
            return html_text(content)
        except ValueError as error:
            return Unreadable(str(path), f"no HTML in the encoding it declares ({error})")
    if kind.endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"{path} is not an intact gzip file ({error}); fetch it again") from None
    text = as_text(content, str(path), encodings)
    return man_text(text) if kind in _MANUAL and isinstance(text, str) else text


def _python(content: bytes, place: str) -> Record:
    """A Python source, in the encoding that it declares (PEP 263)."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return content.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        return Unreadable(place, f"not in the encoding it declares ({error})")


def as_text(value: object, place: str, encodings: list[str]) -> Record:
    """What a field holds, if it is text: a string without lone surrogates, or bytes in one of the encodings."""
    if isinstance(value, bytes):
        return _decode(value, place, encodings)
    if not isinstance(value, str):
        found = "null" if value is None else type(value).__name__
        return Unreadable(place, f"the text is {found}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return Unreadable(place, f"not Unicode text: lone surrogate at character {error.start}")
    return value


def _decode(content: bytes, place: str, encodings: list[str]) -> Record:
    content = content.removeprefix(codecs.BOM_UTF8)
    positions = []
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError as error:
            positions.append(error.start)
    names = " or ".join(name.upper() for name in encodings)
    return Unreadable(place, f"invalid {names} at byte {max(positions)}")


# ---------------------------------------------------------------------------------------------------- .jsonl


def _json_lines(
    path: Path,
    kind: str | None,
    text_field: str,
    encodings: list[str],
    record_bytes: int,
    begin: int,
    end: int | None,
) -> Iterator[Record]:
    before: int | None = None if begin else 0  # lines before `begin`, counted when somebody asks
    with path.open("rb") as stream:
        stream.seek(max(0, begin - 1))
        for number, line in enumerate(_lines(_chunks(stream, path, kind), record_bytes, begin, end), start=1):
            found: Record | None = None
            if line is not None:
                if not line or line.isspace():
                    continue
                found = _json_text(line, text_field, encodings)
                if isinstance(found, str):
                    yield found
                    continue
            if before is None:
                before = _count_lines(path, begin)
            place = f"{path}, line {before + number}"
            yield Unreadable(place, found.reason) if isinstance(found, Unreadable) else Oversized(place)


def _chunks(stream: IO[bytes], path: Path, kind: str | None) -> Iterator[bytes]:
    """The uncompressed content in pieces; of a .jsonl from the place where the stream stands."""
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


def _unzstd(stream: IO[bytes], path: Path) -> Iterator[bytes]:
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


def _lines(chunks: Iterable[bytes], limit: int, begin: int, end: int | None) -> Iterator[bytes | None]:
    """Lines that begin in bytes `begin` to `end`, from chunks that begin one byte before; none for longer ones than `limit`.

    The last line needs no newline.
    """
    position = max(0, begin - 1)
    others = begin > 0  # what is read belongs to a line that began before
    pending: list[bytes] = []
    size = 0
    for chunk in chunks:
        *finished, rest = chunk.split(b"\n")
        for piece in finished:
            size += len(piece)
            if not others:
                yield None if size > limit else b"".join([*pending, piece]) if pending else piece
            others = False
            position += size + 1
            pending, size = [], 0
            if end is not None and position >= end:
                return
        size += len(rest)
        pending = [] if size > limit else [*pending, rest]
    if size and not others:
        yield None if size > limit else b"".join(pending)


def _count_lines(path: Path, begin: int) -> int:
    """Lines that begin before this byte of a file."""
    if not begin:
        return 0
    lines, left = 1, begin - 1
    with path.open("rb") as stream:
        while left and (piece := stream.read(min(left, _CHUNK_BYTES))):
            lines += piece.count(b"\n")
            left -= len(piece)
    return lines


def _json_text(line: bytes, text_field: str, encodings: list[str]) -> Record:
    """The text of a line; an `Unreadable` has no place yet."""
    value: Any
    try:
        value = orjson.loads(line)
    except ValueError:  # or not quite: another encoding, a byte-order mark, NaN; or to say what is wrong
        text = _decode(line, "", encodings)
        if not isinstance(text, str):
            return text
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            return Unreadable("", f"broken JSON: {error.msg} at column {error.colno}")
        except (ValueError, RecursionError) as error:
            return Unreadable("", f"unusable JSON: {error}")
    if not isinstance(value, dict):
        return Unreadable("", f"expected a JSON object, found {type(value).__name__}")
    if text_field not in value:
        return Unreadable("", f"no field {text_field!r}; there are: {', '.join(map(str, value)) or 'none'}")
    return as_text(value[text_field], "", encodings)


# ---------------------------------------------------------------------------------------------------- .parquet, .arrow


def parquet_groups(path: Path, block_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Runs of row groups of about `block_bytes`: first one, the one after the last, bytes as they are stored.

    Raises:
        DataError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None
    begin = filled = 0
    for group in range(metadata.num_row_groups):
        filled += metadata.row_group(group).total_byte_size
        if filled >= block_bytes or group == metadata.num_row_groups - 1:
            yield begin, group + 1, filled
            begin, filled = group + 1, 0


def _columns(
    path: Path, kind: str, text_field: str, encodings: list[str], record_bytes: int, begin: int, end: int | None
) -> Iterator[Record]:
    import pyarrow as pa

    try:
        with path.open("rb") as stream:
            columns = (
                _parquet(stream, path, text_field, begin, end)
                if kind == ".parquet"
                else _arrow(stream, path, text_field)
            )
            for first, column in columns:
                for row, value in enumerate(column, start=first):
                    yield _cell(value, f"{path}, row {row}", encodings, record_bytes)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise _damaged(path, error) from None


def _parquet(stream: IO[bytes], path: Path, text_field: str, begin: int, end: int | None) -> Iterator[tuple[int, Any]]:
    """Pieces of a column, each with the number of its first row."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(stream) as file:
        _has(path, text_field, file.schema_arrow.names)
        groups = range(begin, file.num_row_groups if end is None else end)
        row = sum(file.metadata.row_group(group).num_rows for group in range(begin))
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups, columns=[text_field]):
            yield row, batch.column(0)
            row += batch.num_rows


def _arrow(stream: IO[bytes], path: Path, text_field: str) -> Iterator[tuple[int, Any]]:
    """The same of Arrow's stream format, which `datasets` writes with `save_to_disk`."""
    import pyarrow as pa

    with pa.ipc.open_stream(stream) as batches:
        _has(path, text_field, batches.schema.names)
        row = 0
        for batch in batches:
            yield row, batch.column(text_field)
            row += batch.num_rows


def _has(path: Path, text_field: str, names: list[str]) -> None:
    if text_field not in names:
        raise DataError(
            f"{path} has no column {text_field!r}; there are: {', '.join(names) or 'none'} "
            "(choose one with the source's `text_field`)"
        )


def _cell(value: Any, place: str, encodings: list[str], record_bytes: int) -> Record:
    # taken from the buffer as bytes: pyarrow writes and reads strings without checking their UTF-8
    content = value.as_buffer() if hasattr(value, "as_buffer") and value.is_valid else None
    if content is not None and content.size > record_bytes:
        return Oversized(place)
    return as_text(value.as_py() if content is None else content.to_pybytes(), place, encodings)


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not an intact {(file_format(path) or '').lstrip('.')} file ({error})")
