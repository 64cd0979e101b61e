"""The text of a log, piece by piece: any size in little memory, any of the encodings in which terminals are recorded."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from longcat.errors import DataError
from longcat.unpacking import Allowance

PIECE = 1 << 20
"""Bytes that are read at a time."""
_LONGEST_LINE = 8 << 20
_COLOURS = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_ENCODINGS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class _Unpacked(gzip.GzipFile):
    """A compressed file whose damage is one of the data, and which does not become larger than a log can be."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        packed: Any = self.fileobj
        self._allowance = Allowance(str(path), packed.tell)

    def read(self, *size: Any) -> bytes:
        try:
            data = super().read(*size)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.name}: the compressed file is damaged: {error}") from None
        self._allowance.take(len(data))
        return data


def open_log(path: Path) -> BinaryIO:
    """Open a file for reading; one that gzip has compressed is read as what it holds.

    Raises:
        DataError: the path cannot be opened, or is a directory.
    """
    try:
        file = path.open("rb")
        if file.read(2) == b"\x1f\x8b":
            file.close()
            return _Unpacked(path)  # type: ignore[return-value]
        file.seek(0)
    except IsADirectoryError:
        raise DataError(f"{path} is a directory; give the file of the log in it") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    return file


def encoding_of(path: Path, head: bytes) -> str:
    """Return the encoding of a text that begins with these bytes; a redirection in PowerShell writes UTF-16.

    Raises:
        DataError: it is no text.
    """
    for mark, encoding in _ENCODINGS:
        if head.startswith(mark):
            return encoding
    zeros = head.count(0)
    if zeros:
        for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if head[first::2].count(0) > 0.9 * (len(head) // 2) and head[1 - first :: 2].count(0) == 0:
                return encoding
        raise DataError(f"{path} is a binary file; a log is text, JSON, CSV or an event file of TensorBoard")
    return "utf-8"


def pieces(path: Path) -> Iterator[tuple[int, str]]:
    """Read a text in pieces of whole lines, without colours, each with the number of its first line.

    A progress bar that returns to the start of its line stays one line of the file.

    Raises:
        DataError: the file cannot be read, or is no text.
    """
    number, rest = 1, ""
    with open_log(path) as file:
        head = file.read(PIECE)
        decoder = codecs.getincrementaldecoder(encoding_of(path, head[:4096]))(errors="replace")
        data = head
        while True:
            text = rest + decoder.decode(data, final=not data)
            end = len(text) if not data else text.rfind("\n") + 1
            if not end and len(text) > _LONGEST_LINE:  # a progress bar without end
                end = text.rfind("\r") + 1 or len(text)
            rest = text[end:]
            if end:
                piece = text[:end]
                yield number, _COLOURS.sub("", piece) if "\x1b" in piece else piece
                number += piece.count("\n")
            if not data:
                return
            data = file.read(PIECE)


def lines(number: int, piece: str) -> Iterator[tuple[int, str]]:
    """Return the lines of a piece with their numbers; what a progress bar wrote over counts as a line of its own."""
    for offset, line in enumerate(piece.split("\n")):
        if "\r" in line:
            for part in line.split("\r"):
                yield number + offset, part
        else:
            yield number + offset, line
