"""What the formats of one document a file have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from longcat.corpus.readers.compression import chunks
from longcat.corpus.readers.format import File, Format, Oversized, Reading, Record


def document_format(suffixes: tuple[str, ...], text: Callable[[bytes, File, Reading], Record]) -> Format:
    """Make the format of files that hold one document each.

    Args:
        suffixes: as `Format.suffixes`.
        text: takes the text from a file's content.
    """

    def records(file: File, reading: Reading, begin: int, end: int | None) -> Iterator[Record]:
        content = read_whole(file, reading.record_bytes)
        yield Oversized(str(file)) if content is None else text(content, file, reading)

    return Format(suffixes, records)


def read_whole(file: File, most_bytes: int) -> bytes | None:
    """Read a file, decompressed; None stands for one of more than `most_bytes`, which is not held in memory.

    Raises:
        DataError: it is compressed, and cut off or damaged.
        OSError: it cannot be read.
    """
    content = bytearray()
    with file.open("rb") as stream:
        for chunk in chunks(stream, file):
            content += chunk
            if len(content) > most_bytes:
                return None
    return bytes(content)
