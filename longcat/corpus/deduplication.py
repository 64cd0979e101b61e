"""Exact duplicates, and the split: both follow from a document's content alone."""

from __future__ import annotations

import hashlib


def content_hash(text: bytes) -> bytes:
    """128 bits that stand for a document: the beginning of its SHA-256."""
    return hashlib.sha256(text).digest()[:16]


class Deduplicator:
    """Remembers every content it has seen; 16 bytes and an entry in a set for each."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def is_new(self, digest: bytes) -> bool:
        """Whether this content hash comes for the first time."""
        before = len(self._seen)
        self._seen.add(digest)
        return len(self._seen) > before


def is_held_out(digest: bytes, share: float) -> bool:
    """Whether a document belongs to the held-out split.

    Only its own hash decides: neither order nor the rest of the corpus moves a document to the other side.
    """
    return int.from_bytes(digest[:8], "big") < share * 2**64


def sample_key(digest: bytes) -> int:
    """A number that puts documents in an arbitrary but fixed order, independent of the split (64 bits)."""
    return int.from_bytes(digest[8:16], "big")
