"""Where the documents of held-out rows come from, found again from how they were packed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from longcat.artifact import read_manifest
from longcat.config.corpus import CorpusConfig
from longcat.corpus.documents import BLOCKS, DOCUMENTS
from longcat.corpus.facts import DocumentsFacts, TokensFacts
from longcat.corpus.packing import pack
from longcat.corpus.stage import shard_tasks
from longcat.unpacking import read_json


def held_out_sources(corpus: CorpusConfig, tokens: Path) -> list[list[str]]:
    """Return the name of the source of each document in each held-out row, from left to right.

    Args:
        corpus: that the tokens were made with.
        tokens: folder of the artifact; its `documents` artifact lies in the same workspace.

    Raises:
        ArtifactError: a manifest is missing or unreadable.
        OSError: the documents' table is not there.
    """
    digest = str(read_manifest(tokens, TokensFacts).manifest["identity"]["documents"])
    documents = read_manifest(tokens.parents[1] / "documents" / digest, DocumentsFacts)
    table = np.load(documents.path / DOCUMENTS)
    chosen = np.flatnonzero(table["held_out"])
    names = [str(source["name"]) for source in documents.facts.sources]
    blocks = read_json(documents.path / BLOCKS)
    source_at = {
        (documents.path / f"{blocks[block]}.tokens.npy", begin): names[source]
        for block, begin, source in table[["block", "begin", "source"]][chosen].tolist()
    }
    found: list[list[str]] = []
    for task in shard_tasks(corpus, documents, table, chosen, tokens, "held_out"):
        packed = pack(task.segments, task.width, task.max_padding)
        rows: list[list[str]] = [[] for _ in range(packed.rows)]
        order = np.lexsort((packed.column, packed.row))
        for row, document in zip(packed.row[order].tolist(), packed.segments.document[order].tolist(), strict=True):
            file = task.files[int(task.file_of[document])]
            rows[row].append(source_at[file, int(task.begins[document])])
        found += rows
    return found
