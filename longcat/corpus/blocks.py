"""A corpus cut into blocks: what is worked on, saved and, after an interruption, repeated as one piece.

A block is described by names and places alone, so any process that sees the same files can read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from longcat.corpus.readers import Record, file_format, parquet_groups, read_file
from longcat.errors import DataError


@dataclass(frozen=True)
class Part:
    """A file, or a piece of a file that can be read by itself."""

    path: Path
    stamp: tuple[int, int]
    """Size in bytes and time of the last change in nanoseconds, when the file was hashed."""
    begin: int = 0
    end: int | None = None
    """Bytes (.jsonl) or row groups (.parquet); the whole file when none."""


@dataclass(frozen=True)
class FileBlock:
    """Some parts of files, in their order."""

    parts: tuple[Part, ...]
    text_field: str

    def records(self, encodings: list[str], record_bytes: int) -> Iterator[Record]:
        """Read the block.

        Args:
            encodings: tried in this order on text that comes as bytes.
            record_bytes: longer records are not held in memory, see `readers.Oversized`.

        Raises:
            DataError: a file is missing or damaged, or was changed since it was hashed.
        """
        for part in self.parts:
            yield from read_file(part.path, self.text_field, encodings, record_bytes, part.begin, part.end)
            try:
                now = stamp(part.path)
            except OSError as error:  # a file stays readable to whoever has it open when it is deleted
                raise DataError(f"cannot read {part.path}: {error.strerror}") from error
            if now != part.stamp:
                raise DataError(f"{part.path} was changed while it was read; run again when nobody writes to it")


def stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def cut(files: list[tuple[Path, tuple[int, int]]], text_field: str, block_bytes: int) -> list[FileBlock]:
    """Blocks of about `block_bytes`: small files together, large ones in pieces where their format allows it."""
    blocks: list[FileBlock] = []
    parts: list[Part] = []
    filled = 0
    for path, stamp in files:
        for part, size in _parts(path, stamp, block_bytes):
            if parts and filled + size > block_bytes:
                blocks.append(FileBlock(tuple(parts), text_field))
                parts, filled = [], 0
            parts.append(part)
            filled += size
    return [*blocks, FileBlock(tuple(parts), text_field)] if parts else blocks


def _parts(path: Path, stamp: tuple[int, int], block_bytes: int) -> Iterator[tuple[Part, int]]:
    """The pieces of one file, each with its size in bytes."""
    size, kind = stamp[0], file_format(path)
    if size > block_bytes and kind == ".jsonl":
        for begin in range(0, size, block_bytes):
            end = min(begin + block_bytes, size)
            yield Part(path, stamp, begin, end), end - begin
    elif size > block_bytes and kind == ".parquet":
        for begin, end, taken in parquet_groups(path, block_bytes):
            yield Part(path, stamp, begin, end), taken
    else:
        yield Part(path, stamp), size
