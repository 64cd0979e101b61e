"""N-gram embedding: hashed embeddings of the last few tokens, averaged with the token's own (arXiv 2601.21204)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from longcat.config import NgramConfig
from longcat.model.places import WHOLE, Places, take


class RowSource(Protocol):
    """Fetches rows of a table from where they are (see `longcat.parallel.embedding`)."""

    def start(self, rows: Tensor) -> Callable[[], Tensor]:
        """Begin to fetch the rows of these numbers `[...]`; the function that is returned waits for them, `[..., width]`."""


class Tables(nn.Embedding):
    """The tables of all n-gram branches, stacked along the rows."""

    source: RowSource | None = None
    """Set where the rows are spread over processes; none means that every row is here."""

    def start(self, rows: Tensor) -> Callable[[], Tensor]:
        """Begin to look up rows, see `RowSource.start`."""
        return partial(self, rows) if self.source is None else self.source.start(rows)


class NgramEmbedding(nn.Module):
    """Averages the word's embedding and one projected row for each n-gram branch.

    Branch b = (n - 2) K + j, for n = 2..N and j = 0..K-1, has a table of M_b rows and width hidden / ((N - 1) K). The
    tables are stacked into one, and so are the projections: their sum is one product with the branches' rows side by side.
    """

    def __init__(self, config: NgramConfig, vocabulary: int, hidden: int, end_of_text: int) -> None:
        super().__init__()
        self.rows = config.rows(vocabulary)
        self.neighbors, self.splits = config.neighbor_num, config.split_num
        self.vocabulary, self.end_of_text = vocabulary, end_of_text
        self.tables = Tables(sum(self.rows), hidden // config.branches)
        self.projection = nn.Linear(hidden, hidden, bias=False)

    def start(
        self, tokens: Tensor, seq: int, document_starts: Tensor | None = None, places: Places = WHOLE
    ) -> Callable[[], Tensor]:
        """Begin to look up the rows of own tokens, of the last `seq` of the int64 `tokens` `[batch, at least seq]`.

        Earlier tokens are looked back at, but not over the `document_starts`, which come without earlier ones. It is one go for
        all branches.

        Returns:
            A function that waits for the rows, `[batch, own, branches, hidden / branches]`.
        """
        seen = tokens[:, -(seq + self.neighbors - 1) :]
        rows = ngram_rows(
            seen, self.vocabulary, self.neighbors, self.splits, self.rows, self.end_of_text, document_starts
        )
        return self.tables.start(take(rows[:, -seq:], places.own(seq)))

    def forward(self, words: Tensor, found: Tensor) -> Tensor:
        """Mix word embeddings `[batch, own, hidden]` with the rows that were looked up; the result has the words' shape."""
        return (words + self.projection(found.flatten(-2))) / (1 + len(self.rows))


def ngram_rows(
    tokens: Tensor,
    vocabulary: int,
    neighbors: int,
    splits: int,
    rows: list[int],
    end_of_text: int,
    document_starts: Tensor | None = None,
) -> Tensor:
    """Find the row of every branch in the stacked table by a rolling hash in base V, modulo the branch's own table size.

    id_b(t) = (sum_{k<n} tok[t-k] (V^k mod M_b)) mod M_b. Tokens before the start of the document count as 0, and so do
    an end of document among the previous tokens and all that lies before it.

    Args:
        tokens: int64 `[batch, seq]`.
        vocabulary: V.
        neighbors: N, the longest n-gram.
        splits: K, tables for each length.
        rows: M_b of each branch, `(N - 1) K` of them.
        end_of_text: id of the token that ends a document.
        document_starts: see `longcat.ops.documents`; none where every row is one.

    Returns:
        int64 `[batch, seq, branches]`.
    """
    previous = [tokens]
    reaches = torch.ones_like(tokens, dtype=torch.bool)
    into = None if document_starts is None else torch.arange(tokens.shape[1], device=tokens.device) - document_starts
    for back in range(1, neighbors):
        shifted = torch.nn.functional.pad(tokens, (back, 0))[:, : tokens.shape[1]]
        reaches = reaches & (shifted != end_of_text)
        if into is not None:
            reaches = reaches & (into >= back)
        previous.append(shifted.where(reaches, 0))
    history = torch.stack(previous, dim=-1)  # [batch, seq, neighbors]
    modulus = torch.tensor(rows, device=tokens.device)
    powers = torch.tensor(
        [
            [pow(vocabulary, back, size) if back < 2 + branch // splits else 0 for branch, size in enumerate(rows)]
            for back in range(neighbors)
        ],
        device=tokens.device,
    )
    hashed = (history.unsqueeze(-1) * powers).sum(-2) % modulus
    return hashed + torch.nn.functional.pad(modulus.cumsum(0), (1, 0))[:-1]
