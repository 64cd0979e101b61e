"""Token shards on disk: written once by preprocessing, memory-mapped by everything after it.

tokenizer.json        the tokenizer
token_bytes.npy       int32 [vocabulary]: UTF-8 bytes each token stands for; the vocabulary ends at the largest id + 1
SPLIT-00000.npy       uint16 or uint32 [rows, sequence_length + 1], see `packing`; what is left of a row is padding
SPLIT-00000.spans.npy int32 [spans, 3]: row in the shard and column where a segment of a document begins, and how many
                      tokens of the document came before it; -1 where the padding of a row begins
index.json            the shards of each SPLIT, `train` and `held_out`, and what is common to them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from longcat.artifact import sha256_file, write_json
from longcat.corpus.answers import after_markers
from longcat.corpus.arrays import save
from longcat.corpus.packing import Segments, pack
from longcat.errors import ArtifactError
from longcat.padding import IGNORE, PADDING, is_padding
from longcat.unpacking import read_json

INDEX, TOKENIZER, TOKEN_BYTES = "index.json", "tokenizer.json", "token_bytes.npy"


@dataclass(frozen=True)
class Shard:
    """One file of rows and the file of the spans in them."""

    file: str
    spans_file: str
    rows: int


@dataclass(frozen=True)
class SplitIndex:
    """The shards of a split, and its totals."""

    shards: list[Shard]
    rows: int
    tokens: int
    """Inputs of all rows: `rows * sequence_length`."""
    padding_tokens: int
    documents: int
    extra_cuts: int
    """Cuts made to fill rows, besides those of documents longer than a row."""


@dataclass(frozen=True)
class Batch:
    """Rows taken from a split; arrays are int64 `[rows, sequence_length]`."""

    tokens: np.ndarray
    """Tokens that the model sees."""
    targets: np.ndarray
    """Token that follows each token; `IGNORE` where that is padding, or is a target of another row."""
    documents: np.ndarray
    """Number of each token's document in its row, 0, 1, ...; `PADDING` for padding."""

    def __len__(self) -> int:
        return len(self.tokens)

    def reshape(self, length: int) -> Batch:
        """Arrange the same tokens in rows of another length, each taken for one document; for measurements of speed.

        Raises:
            ValueError: they do not fill whole rows.
        """
        if self.tokens.size % length:
            raise ValueError(f"{self.tokens.size} tokens do not fill whole rows of {length}")
        tokens, targets = self.tokens.reshape(-1, length), self.targets.reshape(-1, length)
        return Batch(tokens, targets, np.zeros_like(targets))

    @classmethod
    def of_rows(cls, rows: np.ndarray) -> Batch:
        """Make a batch of rows `[rows, sequence_length + 1]` that are one document each, without padding."""
        return cls(rows[:, :-1], rows[:, 1:], np.zeros_like(rows[:, 1:]))

    @property
    def learnt(self) -> int:
        """Number of targets that are learnt."""
        return int((self.targets != IGNORE).sum())


def token_dtype(vocabulary_size: int) -> type[np.generic]:
    """Return the smallest unsigned integer type that holds every id below `vocabulary_size`, the largest id + 1."""
    return np.uint16 if vocabulary_size <= 1 << 16 else np.uint32


@dataclass(frozen=True)
class ShardTask:
    """Pack some segments of documents into rows and write them."""

    directory: Path
    name: str
    segments: Segments
    """Their `document` is a place in `file_of` and `begins`."""
    files: list[Path]
    """Files that hold the tokens of documents."""
    file_of: np.ndarray
    """Place in `files` of the file that holds each document, int64 `[documents]`."""
    begins: np.ndarray
    """First token of each document in its file, int64 `[documents]`."""
    width: int
    max_padding: float
    dtype: type[np.generic]
    filler: int
    """Token stored in place of padding."""

    def __str__(self) -> str:
        return f"shard {self.name}"


def write_shard(task: ShardTask) -> Shard:
    """Write a shard, unless it is written already."""
    shard_file, spans_file = f"{task.name}.npy", f"{task.name}.spans.npy"
    if (task.directory / spans_file).exists():
        return Shard(shard_file, spans_file, len(np.load(task.directory / shard_file, mmap_mode="r")))
    packed = pack(task.segments, task.width, task.max_padding)
    rows = np.full((packed.rows, task.width), task.filler, task.dtype)
    begins = task.begins[packed.segments.document] + packed.segments.offset
    file_of = task.file_of[packed.segments.document]
    by_file = np.argsort(file_of, kind="stable")  # one file at a time: a shard may have documents of very many
    opened = -1
    for file, row, column, begin, length in zip(
        *(each[by_file].tolist() for each in (file_of, packed.row, packed.column, begins, packed.segments.length)),
        strict=True,
    ):
        if file != opened:
            tokens, opened = np.load(task.files[file], mmap_mode="r"), file
        rows[row, column : column + length] = tokens[begin : begin + length]
    used = packed.used
    padded = np.flatnonzero(used < task.width)
    spans = np.concatenate(
        [
            np.stack([packed.row, packed.column, packed.segments.offset], axis=1),
            np.stack([padded, used[padded], np.full(len(padded), PADDING)], axis=1),
        ]
    )
    save(task.directory / shard_file, rows)
    save(task.directory / spans_file, spans[np.lexsort((spans[:, 1], spans[:, 0]))].astype(np.int32))
    return Shard(shard_file, spans_file, packed.rows)


@dataclass(frozen=True)
class WrittenShard:
    """A shard, and what its rows cost."""

    shard: Shard
    padding_tokens: int
    extra_cuts: int
    """See `SplitIndex`."""


def write_and_count(task: ShardTask) -> WrittenShard:
    """Write a shard as `write_shard` does, and count what is padding and what is cut in it."""
    shard = write_shard(task)
    _, columns, offsets = np.load(task.directory / shard.spans_file).T
    return WrittenShard(
        shard,
        padding_tokens=int((task.width - columns[offsets == PADDING]).sum()),
        extra_cuts=int((offsets > 0).sum()) - int((task.segments.offset > 0).sum()),
    )


def write_index(
    directory: Path, *, sequence_length: int, vocabulary_size: int, end_of_text: int, splits: dict[str, SplitIndex]
) -> None:
    """Write `index.json` for the shards and the tokenizer that are in `directory`."""
    write_json(
        directory / INDEX,
        {
            "sequence_length": sequence_length,
            "vocabulary_size": vocabulary_size,
            "end_of_text": end_of_text,
            "tokenizer_sha256": sha256_file(directory / TOKENIZER),
            "splits": {name: asdict(split) for name, split in splits.items()},
        },
    )


class TokenRows:
    """The rows of one split over all its shards, read when they are taken."""

    def __init__(
        self, directory: Path, index: SplitIndex, sequence_length: int, markers: Sequence[Sequence[int]] = ()
    ) -> None:
        self.index = index
        self.markers = markers
        """Tokens of texts after which a document is learnt, see `longcat.corpus.answers`; none learns all."""
        self._directory = directory
        self._width = sequence_length + 1
        self._ends = np.cumsum([shard.rows for shard in index.shards], dtype=np.int64)
        self._opened: dict[int, _OpenShard] = {}

    def __len__(self) -> int:
        return self.index.rows

    def take(self, indices: np.ndarray) -> Batch:
        """Read rows by number.

        Raises:
            IndexError: a number outside `range(len(self))`.
            ArtifactError: a shard is missing or has another shape than the index says.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"rows {indices.min()} to {indices.max()} of {len(self)}")
        tokens = np.empty((len(indices), self._width), np.int64)
        documents = np.empty_like(tokens)
        predicted_before = np.zeros(tokens.shape, bool)  # in the row that the document was cut at
        owners = np.searchsorted(self._ends, indices, side="right")
        for place, (owner, index) in enumerate(zip(owners.tolist(), indices.tolist(), strict=True)):
            shard = self._open(owner)
            row = index - int(self._ends[owner]) + self.index.shards[owner].rows
            tokens[place] = shard.rows[row]
            columns, offsets = shard.spans_of(row)
            names = np.where(offsets == PADDING, PADDING, np.arange(len(offsets)))
            documents[place] = np.repeat(names, np.diff(columns, append=self._width))
            predicted_before[place, columns[offsets > 0]] = True
        ignored = predicted_before | is_padding(documents)
        if self.markers:
            ignored |= ~after_markers(tokens, documents, self.markers)
        return Batch(tokens[:, :-1], np.where(ignored, IGNORE, tokens)[:, 1:], documents[:, :-1])

    def _open(self, number: int) -> _OpenShard:
        if number not in self._opened:
            shard = self.index.shards[number]
            rows = _load(self._directory / shard.file, mapped=True)
            if rows.shape != (shard.rows, self._width):
                raise ArtifactError(
                    f"{self._directory / shard.file} has shape {list(rows.shape)}, {INDEX} says "
                    f"{[shard.rows, self._width]}; delete {self._directory} to have it built again"
                )
            self._opened[number] = _OpenShard(rows, _load(self._directory / shard.spans_file, mapped=True))
        return self._opened[number]


@dataclass(frozen=True)
class _OpenShard:
    rows: np.ndarray
    spans: np.ndarray

    @cached_property
    def _first(self) -> np.ndarray:
        return np.searchsorted(self.spans[:, 0], np.arange(len(self.rows) + 1))

    def spans_of(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns and offsets of the spans in a row."""
        spans = self.spans[self._first[row] : self._first[row + 1]]
        return spans[:, 1], spans[:, 2]


@dataclass(frozen=True)
class TokenCorpus:
    """A tokens artifact, opened for reading."""

    path: Path
    sequence_length: int
    """Inputs of a row; it holds one token more."""
    vocabulary_size: int
    """The largest token id + 1."""
    end_of_text: int
    """Id of the token that follows every document."""
    tokenizer_sha256: str
    train: TokenRows
    held_out: TokenRows

    @classmethod
    def open(cls, path: Path) -> TokenCorpus:
        """Open the directory of a tokens artifact.

        Raises:
            ArtifactError: its index is missing or unreadable.
        """
        try:
            index: dict[str, Any] = read_json(path / INDEX)
            splits = {
                name: SplitIndex(**{**split, "shards": [Shard(**shard) for shard in split["shards"]]})
                for name, split in index["splits"].items()
            }
            length = int(index["sequence_length"])
            return cls(
                path=path,
                sequence_length=length,
                vocabulary_size=int(index["vocabulary_size"]),
                end_of_text=int(index["end_of_text"]),
                tokenizer_sha256=str(index["tokenizer_sha256"]),
                train=TokenRows(path, splits["train"], length),
                held_out=TokenRows(path, splits["held_out"], length),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path / INDEX} is missing or unreadable ({type(error).__name__}: {error}); "
                f"delete {path} to have it built again"
            ) from None

    def learning_after(self, texts: Sequence[str]) -> TokenCorpus:
        """Return the same corpus with the targets that come after one of the texts in their document; without texts, all.

        Raises:
            DataError: the tokenizer cannot be read.
        """
        if not texts:
            return self
        from longcat.corpus.tokenizer import encode, open_tokenizer

        markers = [tokens.tolist() for tokens in encode(open_tokenizer(self.tokenizer_path), list(texts))]
        train, held_out = (
            TokenRows(self.path, rows.index, self.sequence_length, markers) for rows in (self.train, self.held_out)
        )
        return replace(self, train=train, held_out=held_out)

    @property
    def tokenizer_path(self) -> Path:
        """Path of the tokenizer, as Hugging Face's `tokenizers` reads it."""
        return self.path / TOKENIZER

    @property
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes that each token stands for, int32 `[vocabulary]`; 0 for special tokens."""
        return _load(self.path / TOKEN_BYTES, mapped=False)


def _load(path: Path, *, mapped: bool) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"cannot read {path} ({error}); delete {path.parent} to have it built again") from None
    return array
