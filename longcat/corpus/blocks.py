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
class FileSlice:
    """A file, or a piece of a file that can be read by itself."""

    path: Path
    stamp: tuple[int, int]
    """Size in bytes and time of the last change in nanoseconds, when the file was hashed."""
    begin: int = 0
    end: int | None = None
    """Bytes (.jsonl) or row groups (.parquet); the whole file when none."""


@dataclass(frozen=True)
class FileBlock:
    """Some slices of files, in their order."""

    slices: tuple[FileSlice, ...]
    text_field: str

    def records(self, encodings: list[str], record_bytes: int) -> Iterator[Record]:
        """Read the block.

        Args:
            encodings: tried in this order on text that comes as bytes.
            record_bytes: longer records are not held in memory, see `readers.Oversized`.

        Raises:
            DataError: a file is missing or damaged, or was changed since it was hashed.
        """
        for file_slice in self.slices:
            yield from read_file(
                file_slice.path, self.text_field, encodings, record_bytes, file_slice.begin, file_slice.end
            )
            try:
                now = stamp(file_slice.path)
            except OSError as error:  # a file stays readable to whoever has it open when it is deleted
                raise DataError(f"cannot read {file_slice.path}: {error.strerror}") from error
            if now != file_slice.stamp:
                raise DataError(f"{file_slice.path} was changed while it was read; run again when nobody writes to it")


def stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def split_into_blocks(files: list[tuple[Path, tuple[int, int]]], text_field: str, block_bytes: int) -> list[FileBlock]:
    """Blocks of about `block_bytes`: small files together, large ones in pieces where their format allows it."""
    blocks: list[FileBlock] = []
    slices: list[FileSlice] = []
    filled = 0
    for path, stamp in files:
        for file_slice, size in _slices(path, stamp, block_bytes):
            if slices and filled + size > block_bytes:
                blocks.append(FileBlock(tuple(slices), text_field))
                slices, filled = [], 0
            slices.append(file_slice)
            filled += size
    return [*blocks, FileBlock(tuple(slices), text_field)] if slices else blocks


def _slices(path: Path, stamp: tuple[int, int], block_bytes: int) -> Iterator[tuple[FileSlice, int]]:
    """The pieces of one file, each with its size in bytes."""
    size, kind = stamp[0], file_format(path)
    if size > block_bytes and kind == ".jsonl":
        for begin in range(0, size, block_bytes):
            end = min(begin + block_bytes, size)
            yield FileSlice(path, stamp, begin, end), end - begin
    elif size > block_bytes and kind == ".parquet":
        for begin, end, taken in parquet_groups(path, block_bytes):
            yield FileSlice(path, stamp, begin, end), taken
    else:
        yield FileSlice(path, stamp), size
