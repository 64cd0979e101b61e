"""The documents of a split, divided among shards as they are read: nothing is held but those of a shard or two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from longcat.config import CorpusConfig
from longcat.corpus.mapping import Mapper
from longcat.corpus.mixture import Mixture
from longcat.corpus.packing import Segments, split_documents
from longcat.corpus.shards import Shard, ShardTask, SplitIndex, token_dtype, write_and_count


@dataclass(frozen=True)
class Portion:
    """What goes into one shard."""

    segments: Segments
    """Their `document` is a place in `rows`."""
    rows: np.ndarray
    """`DOCUMENT` `[documents]`; one that is cut between two shards is in both."""


@dataclass(frozen=True)
class ShardTarget:
    """Where the tokens of documents are, and where shards of them go."""

    documents: Path
    """Folder of the blocks' files."""
    blocks: Sequence[str]
    """Names of the blocks, by the number that documents have."""
    vocabulary_size: int
    end_of_text: int
    directory: Path
    """Folder for the shards."""


def portions(chosen: Iterable[np.ndarray], corpus: CorpusConfig) -> Iterator[Portion]:
    """Divide documents in their order among shards of at most `shard_sequences` rows.

    Args:
        chosen: the documents, `DOCUMENT`, in parts.
        corpus: the size of rows and shards.
    """
    width = corpus.sequence_length_tokens + 1
    # few enough to fit with the padding that packing may leave, tokens that are stored twice, and a nearly empty row
    room = max(1, int(0.98 * corpus.shard_sequences * (1 - corpus.max_padding)) - 1) * width
    left: Portion | None = None
    begin = 0  # tokens of all segments before those that are left
    for rows in chosen:
        segments = split_documents(np.arange(len(rows)), rows["tokens"], width)
        if left:
            segments = _joined(left.segments, segments, len(left.rows))
            rows = np.concatenate([left.rows, rows])
        if not len(segments):
            continue
        begins = begin + np.cumsum(segments.length) - segments.length
        edges = np.flatnonzero(np.diff(begins // room, prepend=-1)).tolist()
        for first, last in pairwise(edges):
            yield _portion(segments, rows, first, last)
        left, begin = _portion(segments, rows, edges[-1], len(segments)), int(begins[edges[-1]])
    if left:
        yield left


def _joined(some: Segments, others: Segments, documents: int) -> Segments:
    """Put segments behind others of so many documents."""
    both = zip(some.arrays, (others.document + documents, others.offset, others.length), strict=True)
    return Segments(*(np.concatenate(pair) for pair in both))


def _portion(segments: Segments, rows: np.ndarray, first: int, last: int) -> Portion:
    part = segments.take(slice(first, last))
    first_document = part.document[0]
    return Portion(
        Segments(part.document - first_document, part.offset, part.length),
        rows[first_document : part.document[-1] + 1],
    )


def shard_tasks(
    chosen: Iterable[np.ndarray], corpus: CorpusConfig, target: ShardTarget, split: str
) -> Iterator[ShardTask]:
    """Make the tasks of a split, one after another."""
    for number, portion in enumerate(portions(chosen, corpus)):
        blocks, file_of = np.unique(portion.rows["block"], return_inverse=True)
        yield ShardTask(
            directory=target.directory,
            name=f"{split}-{number:05d}",
            segments=portion.segments,
            files=[target.documents / f"{target.blocks[block]}.tokens.npy" for block in blocks.tolist()],
            file_of=file_of,
            begins=portion.rows["begin"],
            width=corpus.sequence_length_tokens + 1,
            max_padding=corpus.max_padding,
            dtype=token_dtype(target.vocabulary_size),
            filler=target.end_of_text,
        )


def write_split(
    mixture: Mixture,
    corpus: CorpusConfig,
    target: ShardTarget,
    split: str,
    mapper: Mapper,
    tell: Callable[[float], None] = lambda done: None,
) -> SplitIndex:
    """Write the shards of a split; those that are there are not written again.

    Args:
        mixture: what is chosen.
        corpus: the size of rows and shards.
        target: where tokens come from and go to.
        split: `train` or `held_out`.
        mapper: does the work.
        tell: is told the fraction that is done.
    """
    width = corpus.sequence_length_tokens + 1
    shards: list[Shard] = []
    rows = padding_tokens = extra_cuts = 0
    with closing(mapper(write_and_count, shard_tasks(mixture.chosen(split), corpus, target, split))) as written:
        for one in written:
            shards.append(one.shard)
            rows += one.shard.rows
            padding_tokens += one.padding_tokens
            extra_cuts += one.extra_cuts
            tell(min(1.0, rows * width / mixture.tokens[split]))
    return SplitIndex(
        shards=shards,
        rows=rows,
        tokens=rows * corpus.sequence_length_tokens,
        padding_tokens=padding_tokens,
        documents=mixture.documents[split],
        extra_cuts=extra_cuts,
    )
