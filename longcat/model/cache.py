"""The cache of generation: the compressed key-value of each attention sublayer for all tokens so far.

Rows of unequal length end together: a shorter one has columns of padding at its left. So the newest tokens of all rows are
the last ones of the keys, as every operator of attention wants its queries, and rows can join and leave at any time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ROOM = 32
"""Columns that are made at least when there is no room for more."""


class Cache:
    """Holds the tokens so far, and `kv_lora_rank + qk_rope_head_dim` numbers per token and sublayer.

    With sparse attention each layer's indexer adds `index_head_dim` numbers. For inference: it is written in place.
    """

    def __init__(self, layers: int) -> None:
        self._tokens = _Columns()
        self._latents = [_Columns() for _ in range(2 * layers)]
        self._index_keys = [_Columns() for _ in range(layers)]
        self.padded: tuple[int, ...] = ()
        """Columns of padding at the left of each row; empty where no row has any."""
        self.starts: Tensor | None = None
        """The same as int64 `[rows]` on the device; None where no row has any."""

    @property
    def length(self) -> int:
        """Return the number of columns: tokens of the longest row."""
        return self._tokens.length

    @property
    def lengths(self) -> list[int]:
        """Return the number of tokens of each row."""
        rows = 0 if self._tokens.buffer is None else self._tokens.buffer.shape[0]
        return [self.length - padded for padded in self.padded] or [self.length] * rows

    def extend_tokens(self, tokens: Tensor) -> Tensor:
        """Add tokens `[rows, new]`; returns all of them, `[rows, length]`, n-grams look back at them."""
        return self._tokens.extend(tokens)

    def extend_latents(self, sublayer: int, latents: Tensor) -> Tensor:
        """Add a sublayer's `[rows, new, rank + rope]`; returns all of them: normed and scaled latent, rotated key."""
        return self._latents[sublayer].extend(latents)

    def extend_index_keys(self, layer: int, keys: Tensor) -> Tensor:
        """Add an indexer's `[rows, new, dim]`; returns all of them."""
        return self._index_keys[layer].extend(keys)

    def select(self, rows: Sequence[int], lengths: Sequence[int] | None = None, room: int = _ROOM) -> Cache:
        """Copy rows into a cache of their own, any of them any number of times.

        Args:
            rows: numbers of the rows, in their new order.
            lengths: tokens that are kept of each, the first ones of the row; all of them where None. What follows them,
                as padding at the right, is dropped.
            room: columns to make room for besides.
        """
        before = self.lengths
        kept = [before[row] for row in rows] if lengths is None else list(lengths)
        longest = max(kept)
        # where the new row's first column lies in the old row
        first = [self.length - before[row] + length - longest for row, length in zip(rows, kept, strict=True)]
        found = Cache(len(self._index_keys))
        for new, old in zip(found._all(), self._all(), strict=True):
            new.take(old, rows, first, longest, room)
        found._pad([longest - length for length in kept])
        return found

    def join(self, other: Cache) -> Cache:
        """Copy the rows of this cache and, after them, those of another one of the same model into one."""
        both = self.lengths + other.lengths
        longest = max(both)
        found = Cache(len(self._index_keys))
        for new, first, second in zip(found._all(), self._all(), other._all(), strict=True):
            new.lay(first, second, longest)
        found._pad([longest - length for length in both])
        return found

    def _all(self) -> list[_Columns]:
        return [self._tokens, *self._latents, *self._index_keys]

    def _pad(self, padded: list[int]) -> None:
        if any(padded):
            assert self._tokens.buffer is not None
            self.padded = tuple(padded)
            self.starts = torch.tensor(padded, device=self._tokens.buffer.device)
            before = torch.arange(self.length, device=self.starts.device) < self.starts[:, None]
            self._tokens.buffer[:, : self.length].masked_fill_(before, 0)  # as n-grams count what precedes a text


class _Columns:
    """Tensors `[rows, length, ...]` that grow along the second dimension, in a buffer with room for more."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None
        self.length = 0

    def extend(self, new: Tensor) -> Tensor:
        """Add columns, and return all of them."""
        end = self.length + new.shape[1]
        if self.buffer is None:
            self.buffer = new  # most caches of a prompt are not continued as they are
        else:
            if end > self.buffer.shape[1]:
                grown = self._empty(self.buffer, self.buffer.shape[0], end + max(_ROOM, end // 4))
                grown[:, : self.length] = self.buffer[:, : self.length]
                self.buffer = grown
            self.buffer[:, self.length : end] = new
        self.length = end
        return self.buffer[:, :end]

    def take(self, old: _Columns, rows: Sequence[int], first: Sequence[int], length: int, room: int) -> None:
        """Copy `length` columns of some rows of others, from each row's `first` one on; where that is below 0, any numbers."""
        if old.buffer is None:
            return
        device, held = old.buffer.device, old.buffer.shape[1]
        columns = (torch.tensor(first, device=device)[:, None] + torch.arange(length, device=device)).clamp_min(0)
        places = torch.tensor(rows, device=device)[:, None] * held + columns
        self.buffer, self.length = self._empty(old.buffer, len(rows), length + room), length
        self.buffer[:, :length] = old.buffer.flatten(0, 1)[places]

    def lay(self, first: _Columns, second: _Columns, length: int) -> None:
        """Copy the rows of two, one below the other, so that they end together at this length."""
        if first.buffer is None or second.buffer is None:
            return
        rows = first.buffer.shape[0]
        self.buffer = self._empty(first.buffer, rows + second.buffer.shape[0], length + _ROOM)
        self.length = length
        for part, of in ((self.buffer[:rows], first), (self.buffer[rows:], second)):
            assert of.buffer is not None
            here = min(of.length, length)
            part[:, : length - here] = 0
            part[:, length - here : length] = of.buffer[:, of.length - here : of.length]

    @staticmethod
    def _empty(like: Tensor, rows: int, columns: int) -> Tensor:
        return like.new_empty(rows, columns, *like.shape[2:])
