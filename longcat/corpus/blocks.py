"""A corpus divided into blocks: what one call works on, saves, and repeats after an interruption.

A block is described by names and places alone, so any process that sees the same files can read it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from longcat.corpus.addresses import RemoteFile
from longcat.corpus.readers import File, Reading, Record, line_of, read_file, split_file
from longcat.errors import DataError
from longcat.processes.pool import note_place


@dataclass(frozen=True)
class FileSlice:
    """A file, or a part of one that can be read by itself."""

    path: File
    stamp: tuple[int, int]
    """Size in bytes and time of the last change in nanoseconds, when the file was hashed."""
    begin: int = 0
    """Where it begins, in the unit of the file's format (bytes of .jsonl, row groups of .parquet)."""
    end: int | None = None
    """The place after its last; None for the end of the file."""


@dataclass(frozen=True)
class FileBlock:
    """Slices of files that are read one after another."""

    slices: tuple[FileSlice, ...]
    text_field: str
    lines: bool = False
    """Whether each line of a text file is a document."""

    def records(self, encodings: list[str], record_bytes: int) -> Iterator[Record]:
        """Read the block.

        Args:
            encodings: tried in this order on text that comes as bytes.
            record_bytes: longer records are not held in memory, see `readers.Oversized`.

        Raises:
            DataError: a file is missing or damaged, or was changed since it was hashed.
        """
        reading = Reading(self.text_field, encodings, record_bytes, self.lines)
        for part in self.slices:
            note_place(f"{part.path}\t{part.begin}\t1")
            for number, record in enumerate(read_file(part.path, reading, part.begin, part.end), start=2):
                yield record
                note_place(f"{part.path}\t{part.begin}\t{number}")
            try:
                now = stamp(part.path)
            except OSError as error:  # a file stays readable to whoever has it open when it is deleted
                raise DataError(f"cannot read {part.path}: {error.strerror}") from error
            if now != part.stamp:
                raise DataError(f"{part.path} was changed while it was read; run again when nobody writes to it")


def place_of(noted: str) -> str:
    """Say in words where a process was in a block, by what it noted: the line where a file has lines, else the record."""
    path, *numbers = noted.rsplit("\t", 2)
    if len(numbers) != 2:
        return noted
    begin, number = map(int, numbers)
    line = line_of(Path(path), begin, number)
    return f"{path}, line {line}" if line else f"{path}, record {number}{f' from {begin} on' if begin else ''}"


def stamp(path: File) -> tuple[int, int]:
    """Return a file's size in bytes and a number that changes with it: the time of its last change in nanoseconds."""
    if isinstance(path, RemoteFile):
        return path.stamp()
    status = Path(str(path)).stat()
    return status.st_size, status.st_mtime_ns


def _whole(path: File, block_bytes: int) -> int:
    """Return the bytes of a file's slices: all of it, where it can only be read from its beginning."""
    return sys.maxsize if isinstance(path, RemoteFile) and path.is_streamed else block_bytes


def split_into_blocks(
    files: list[tuple[File, tuple[int, int]]], text_field: str, block_bytes: int, lines: bool = False
) -> list[FileBlock]:
    """Make blocks of about `block_bytes`: small files together, large ones divided where their format allows it.

    Args:
        files: each with its `stamp`, in the order they are read.
        text_field: the key or column that holds the text.
        block_bytes: bytes of a block.
        lines: whether each line of a text file is a document.

    Raises:
        DataError: a file that would be divided is damaged.
    """
    blocks: list[FileBlock] = []
    slices: list[FileSlice] = []
    filled = 0
    for path, file_stamp in files:
        for part in split_file(path, file_stamp[0], _whole(path, block_bytes), lines):
            if slices and filled + part.size_bytes > block_bytes:
                blocks.append(FileBlock(tuple(slices), text_field, lines))
                slices, filled = [], 0
            slices.append(FileSlice(path, file_stamp, part.begin, part.end))
            filled += part.size_bytes
    return [*blocks, FileBlock(tuple(slices), text_field, lines)] if slices else blocks
