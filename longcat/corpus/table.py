"""The table of documents on disk, read piece by piece, so that nobody holds more of it than a piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longcat.corpus.block_tasks import DOCUMENT
from longcat.disk import replacing
from longcat.errors import ArtifactError

PIECE_DOCUMENTS = 1 << 17


@dataclass(frozen=True)
class Piece:
    """Consecutive documents of the table."""

    first: int
    """Number of the first."""
    rows: np.ndarray
    """`DOCUMENT` `[documents]`."""

    @property
    def numbers(self) -> np.ndarray:
        """Return the numbers of its documents, int64."""
        return np.arange(self.first, self.first + len(self.rows))


@dataclass(frozen=True)
class DocumentsTable:
    """`documents.npy` of an artifact: a `DOCUMENT` for each document, in the order in which they were read."""

    path: Path
    piece_documents: int = PIECE_DOCUMENTS
    """Documents of a piece."""

    def pieces(self) -> Iterator[Piece]:
        """Read all of it.

        Raises:
            ArtifactError: the file is missing or damaged.
        """
        first = 0
        try:
            with self.path.open("rb") as stream:
                np.lib.format.read_magic(stream)
                (documents,), _, dtype = np.lib.format.read_array_header_1_0(stream)
                while first < documents:
                    rows = np.fromfile(stream, dtype, min(self.piece_documents, documents - first))
                    if not len(rows):
                        raise EOFError(f"it ends after {first} of {documents} documents")
                    yield Piece(first, rows)
                    first += len(rows)
        except (OSError, ValueError, EOFError) as error:
            raise ArtifactError(
                f"cannot read {self.path} ({error}); delete {self.path.parent} to have it built again"
            ) from None


def write_table(path: Path, parts: Iterable[np.ndarray], documents: int) -> int:
    """Write the table part by part; returns the tokens of all documents.

    Args:
        path: of the file.
        parts: `DOCUMENT`, in order.
        documents: how many they are together.
    """
    tokens = 0
    with replacing(path) as stream:
        header = {"descr": np.lib.format.dtype_to_descr(DOCUMENT), "fortran_order": False, "shape": (documents,)}
        np.lib.format.write_array_header_1_0(stream, header)
        for rows in parts:
            tokens += int(rows["tokens"].sum(dtype=np.int64))
            stream.write(rows.tobytes())
    return tokens
