"""Facts about the documents of a block that selection needs, as arrays."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np

_BLANK_LINES = re.compile(rb"\n(?:[ \t]*\n)+")


@dataclass(frozen=True)
class Arrays:
    """The documents of a block that were not left out; arrays are `[documents]`."""

    ends: np.ndarray
    """Byte after each document in the text of the block, int64."""
    digests: np.ndarray
    """`content_hash` of each, uint64 `[documents, 2]`."""
    characters: np.ndarray
    """Characters of each, int64."""
    paragraphs: np.ndarray
    """int64 `[paragraphs, 5]`: hash, document, first byte, byte after the last, characters; empty if paragraphs do not matter."""


class ArraysBuilder:
    """Collects `Arrays` document by document."""

    def __init__(self, paragraph_characters: int | None) -> None:
        """Start without documents.

        Args:
            paragraph_characters: shorter paragraphs are not recorded; None records none.
        """
        self._paragraph_characters = paragraph_characters
        self._end = 0
        self._ends: list[int] = []
        self._digests: list[bytes] = []
        self._characters: list[int] = []
        self._paragraphs: list[tuple[int, int, int, int, int]] = []

    def add(self, text: str) -> bytes:
        """Record a document; returns its UTF-8."""
        content = text.encode()
        if self._paragraph_characters:
            self._add_paragraphs(content, self._paragraph_characters)
        self._end += len(content)
        self._ends.append(self._end)
        self._digests.append(content_hash(content))
        self._characters.append(len(text))
        return content

    def _add_paragraphs(self, content: bytes, at_least: int) -> None:
        begin = 0
        for end in [*(blank.end() for blank in _BLANK_LINES.finditer(content)), len(content)]:
            whole = content[begin:end]  # with the white space round it, which is cut out too
            text = whole.strip()
            if len(text.decode()) >= at_least:
                hashed = int.from_bytes(content_hash(text)[:8], "little", signed=True)
                self._paragraphs.append((hashed, len(self._ends), begin, end, len(whole.decode())))
            begin = end

    def build(self) -> Arrays:
        """Return the arrays of the documents recorded so far."""
        return Arrays(
            ends=np.array(self._ends, np.int64),
            digests=np.frombuffer(b"".join(self._digests), ">u8").astype(np.uint64).reshape(-1, 2),
            characters=np.array(self._characters, np.int64),
            paragraphs=np.array(self._paragraphs, np.int64).reshape(-1, 5),
        )


def content_hash(content: bytes) -> bytes:
    """Return 128 bits that stand for a text: the beginning of its SHA-256."""
    return hashlib.sha256(content).digest()[:16]
