"""Token shards on disk: written once by preprocessing, memory-mapped by everything after it.

tokenizer.json              the tokenizer
token_bytes.npy             int32 [vocabulary]: UTF-8 bytes each token stands for
SPLIT-00000.npy             uint16 or uint32 [rows, sequence_length + 1], see `packing`
SPLIT-00000.documents.npy   int32 [k, 2]: row in the shard and column where documents start
index.json                  what there is; SPLIT is `train` or `held_out`
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longcat.artifact import sha256_file, write_json
from longcat.corpus.packing import PackedRows
from longcat.errors import ArtifactError

INDEX, TOKENIZER, TOKEN_BYTES = "index.json", "tokenizer.json", "token_bytes.npy"


@dataclass(frozen=True)
class Shard:
    """One file of rows and the file of its document starts."""

    file: str
    documents_file: str
    rows: int


@dataclass(frozen=True)
class SplitIndex:
    """What a split consists of."""

    shards: list[Shard]
    rows: int
    tokens: int
    """Targets: `rows * sequence_length`."""
    tail_tokens: int
    """Tokens at the end that fill no row."""
    documents: int
    bytes: int
    """UTF-8 bytes of the documents."""


def token_dtype(vocabulary_size: int) -> type[np.generic]:
    """The smallest unsigned integer that shards of this vocabulary are stored in."""
    return np.uint16 if vocabulary_size <= 1 << 16 else np.uint32


def write_shards(directory: Path, split: str, runs: Iterable[PackedRows]) -> list[Shard]:
    """Write each run of rows as a shard."""
    shards = []
    for number, run in enumerate(runs):
        shard = Shard(f"{split}-{number:05d}.npy", f"{split}-{number:05d}.documents.npy", len(run.rows))
        np.save(directory / shard.file, run.rows)
        np.save(directory / shard.documents_file, run.documents)
        shards.append(shard)
    return shards


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
    """The rows of one split, over all its shards; nothing is read before it is taken."""

    def __init__(self, directory: Path, index: SplitIndex, sequence_length: int) -> None:
        self.index = index
        self._directory = directory
        self._width = sequence_length + 1
        self._ends = np.cumsum([shard.rows for shard in index.shards], dtype=np.int64)
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.index.rows

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Rows by number, int64 `[n, sequence_length + 1]`.

        Raises:
            IndexError: a number outside `range(len(self))`.
            ArtifactError: a shard is missing or has another shape than the index says.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"rows {indices.min()} to {indices.max()} of {len(self)}")
        taken = np.empty((len(indices), self._width), np.int64)
        owners = np.searchsorted(self._ends, indices, side="right")
        for owner in np.unique(owners):
            mine = owners == owner
            first = self._ends[owner] - self.index.shards[owner].rows
            taken[mine] = self._map(int(owner))[indices[mine] - first]
        return taken

    def documents(self) -> np.ndarray:
        """Where documents start, int64 `[k, 2]`: row of the split and column, in order."""
        parts = [np.empty((0, 2), np.int64)]
        for shard, end in zip(self.index.shards, self._ends, strict=True):
            starts = _load(self._directory / shard.documents_file, mapped=False)
            parts.append(starts + np.array([end - shard.rows, 0]))
        return np.concatenate(parts)

    def _map(self, number: int) -> np.ndarray:
        if number not in self._maps:
            shard = self.index.shards[number]
            rows = _load(self._directory / shard.file, mapped=True)
            if rows.shape != (shard.rows, self._width):
                raise ArtifactError(
                    f"{self._directory / shard.file} has shape {list(rows.shape)}, {INDEX} says "
                    f"{[shard.rows, self._width]}; delete {self._directory} to have it built again"
                )
            self._maps[number] = rows
        return self._maps[number]


@dataclass(frozen=True)
class TokenCorpus:
    """A tokens artifact, opened for reading."""

    path: Path
    sequence_length: int
    """Inputs of a row; it holds one token more."""
    vocabulary_size: int
    end_of_text: int
    """Token that follows every document."""
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
            index: dict[str, Any] = json.loads((path / INDEX).read_text(encoding="utf-8"))
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

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer, as Hugging Face's `tokenizers` reads it."""
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
