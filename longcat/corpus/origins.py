"""Where the documents of held-out rows come from, found again from how they were packed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from longcat.artifact import read_manifest
from longcat.config.corpus import CorpusConfig
from longcat.corpus.documents import DOCUMENTS
from longcat.corpus.facts import DocumentsFacts, TokensFacts
from longcat.corpus.mixture import held_out
from longcat.corpus.packing import pack
from longcat.corpus.sharding import portions
from longcat.corpus.table import DocumentsTable


def held_out_sources(corpus: CorpusConfig, tokens: Path) -> list[list[str]]:
    """Return the name of the source of each document in each held-out row, from left to right.

    Args:
        corpus: that the tokens were made with.
        tokens: folder of the artifact; its `documents` artifact lies in the same workspace.

    Raises:
        ArtifactError: a manifest or the documents' table is missing or unreadable.
    """
    digest = str(read_manifest(tokens, TokensFacts).manifest["identity"]["documents"])
    documents = read_manifest(tokens.parents[1] / "documents" / digest, DocumentsFacts)
    names = [str(source["name"]) for source in documents.facts.sources]
    found: list[list[str]] = []
    for portion in portions(held_out(DocumentsTable(documents.path / DOCUMENTS)), corpus):
        packed = pack(portion.segments, corpus.sequence_length_tokens + 1, corpus.max_padding)
        rows: list[list[str]] = [[] for _ in range(packed.rows)]
        order = np.lexsort((packed.column, packed.row))
        sources = portion.rows["source"][packed.segments.document[order]]
        for row, source in zip(packed.row[order].tolist(), sources.tolist(), strict=True):
            rows[row].append(names[source])
        found += rows
    return found
