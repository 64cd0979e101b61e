"""Limits on what a compressed file or an archive may become, checked while it is unpacked: a few bytes can be terabytes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.errors import DataError

RATIO = 250
"""Unpacked bytes per packed byte. Text comes to 20, repetitive logs to 100, gzip at its worst to 1,032."""
FREE_BYTES = 64 << 20
"""Unpacked bytes up to which any ratio is fine."""
MOST_TEXT_BYTES = 256 << 20
"""Most bytes of a file that is read as a whole: configurations, headers, indices, tokenizers. Real ones have 50 MB at most."""


@dataclass
class Allowance:
    """What may still be unpacked of one file."""

    where: str
    """The file, for messages."""
    packed_bytes: Callable[[], int]
    """How many packed bytes have been read."""
    most_bytes: int | None = None
    """Largest number of unpacked bytes; None for any number."""
    most_files: int | None = None
    """Largest number of members of an archive."""
    bytes: int = 0
    files: int = 0

    def take(self, count: int) -> None:
        """Count unpacked bytes.

        Raises:
            DataError: they are too many for the file.
        """
        self.bytes += count
        if self.most_bytes is not None and self.bytes > self.most_bytes:
            raise DataError(f"{self.where} unpacks to more than {self.most_bytes:,} bytes, the most that is unpacked")
        if self.bytes > FREE_BYTES and self.bytes > RATIO * max(1, self.packed_bytes()):
            raise DataError(
                f"{self.where} unpacks to more than {RATIO} times its size, as no text does; unpack it yourself if you trust it"
            )

    def take_file(self) -> None:
        """Count a member of an archive.

        Raises:
            DataError: there are too many.
        """
        self.files += 1
        if self.most_files is not None and self.files > self.most_files:
            raise DataError(f"{self.where} has more than {self.most_files:,} files, the most that are unpacked")


class OversizedFileError(DataError, ValueError):
    """A file that is far larger than what it should be; to a parser it is as good as damaged."""


def read_bounded(path: Path) -> bytes:
    """Read a file that is parsed as a whole, before memory is taken for one that cannot be what it should be.

    Raises:
        OversizedFileError: it is larger than `MOST_TEXT_BYTES`, or has no end.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(MOST_TEXT_BYTES + 1) if size <= MOST_TEXT_BYTES else b""
    if size > MOST_TEXT_BYTES or len(content) > MOST_TEXT_BYTES:
        raise OversizedFileError(
            f"{path} is larger than {MOST_TEXT_BYTES:,} bytes, which no such file is; it is not read"
        )
    return content


def read_json(path: Path) -> Any:
    """Read a file of JSON.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or is an `OversizedFileError`.
        OSError: it cannot be read.
    """
    return parse_json(read_bounded(path))


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is no JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def why_unreadable(error: Exception) -> str:
    """Say what is wrong with a record that was read: what Python says, which of a missing field is its name alone."""
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
