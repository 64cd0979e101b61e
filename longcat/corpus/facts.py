"""Key figures of the two artifacts that preprocessing makes."""

from __future__ import annotations

from typing import Any, ClassVar

from longcat.artifact import Facts
from longcat.printable import short_count


class DocumentsFacts(Facts):
    """Key figures of a `documents` artifact: the cleaned corpus as tokens."""

    SETTINGS: ClassVar[frozenset[str]] = frozenset({"vocabulary_size", "end_of_text"})

    sources: list[dict[str, Any]]
    """One entry per source: its name, licence and pin, documents, unreadable records, and files left out by suffix."""
    bad_lines: int
    """Records that could not be read."""
    documents: int
    """Documents kept."""
    text_bytes: int
    """UTF-8 bytes of the kept text."""
    dropped: dict[str, int]
    """Documents left out, by reason."""
    paragraphs_cut: int
    """Paragraphs removed because an earlier document keeps them."""
    masked: dict[str, int]
    """Personal data replaced, by kind."""
    languages: dict[str, int]
    """Documents kept, by language."""
    length_log2: dict[str, int]
    """Documents kept, by the logarithm to base 2 of their characters, rounded down."""
    tokens: int
    """Tokens of all kept documents, ends of text included."""
    bytes_per_token: float
    """Bytes of the kept text over its tokens."""
    vocabulary_size: int
    """Largest token id + 1."""
    end_of_text: int
    """Id of the token that follows every document."""
    versions: dict[str, str]
    """Versions of Python and the libraries whose output could differ."""

    @property
    def headline(self) -> str:
        """Summarise the amount of text."""
        return f"{short_count(self.tokens)} tokens in {self.documents:,} documents"

    @property
    def figures(self) -> dict[str, float | None]:
        """Return the size of the text, for metrics."""
        return {"documents": float(self.documents), "bytes_per_token": self.bytes_per_token}


class TokensFacts(DocumentsFacts):
    """Key figures of a `tokens` artifact: a mixture of the documents, packed into rows."""

    train_tokens: int
    """Training rows times their length, padding included."""
    held_out_tokens: int
    """Held-out rows times their length, padding included."""
    train_rows: int
    """Rows of `corpus.sequence_length_tokens` tokens to train on."""
    held_out_rows: int
    """Rows that are never trained on."""
    padding_fraction: float
    """Fraction of the training rows' tokens that is padding."""
    extra_cuts_fraction: float
    """Cuts inside documents to fill rows, in addition to those of documents longer than a row, per training document."""
    mixture: list[dict[str, Any]]
    """One entry per group of documents: source, whether long ones, documents, tokens, tokens sampled, repeats."""
    documents_artifact: str
    """Digest of the documents that were packed."""

    @property
    def headline(self) -> str:
        """Summarise the amount of training data."""
        return f"{short_count(self.train_tokens)} training tokens"

    @property
    def figures(self) -> dict[str, float | None]:
        """Return the size of the training data, for metrics."""
        return {"train_tokens": float(self.train_tokens), "bytes_per_token": self.bytes_per_token}
