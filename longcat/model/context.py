"""The data that all layers share in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from longcat.config import Phase
from longcat.model.cache import Cache
from longcat.model.places import Places, take
from longcat.ops.documents import readable


class Run(NamedTuple):
    """Tokens at consecutive positions: as queries they are the last ones of the keys up to their end."""

    start: int
    """Of its first token among those that are computed here."""
    stop: int
    keys: int
    """Keys of the row up to its end."""
    document_starts: Tensor | None
    """Of its tokens, `[batch, tokens]`; none where every row is one document."""

    def of(self, tokens: Tensor, dim: int = 1) -> Tensor:
        """Cut out its tokens from those that are computed here."""
        return _cut(tokens, dim, self.start, self.stop)

    def read(self, rows: Tensor, dim: int = 1) -> Tensor:
        """Cut out the keys up to its end."""
        return _cut(rows, dim, 0, self.keys)


def _cut(tensor: Tensor, dim: int, start: int, stop: int) -> Tensor:
    whole = start == 0 and stop == tensor.shape[dim]  # a view would cost memory in the backward pass
    return tensor if whole else tensor.narrow(dim, start, stop - start)


def runs_of(runs: Sequence[range], start: int, document_starts: Tensor | None) -> list[Run]:
    """Describe runs of positions of rows that follow `start` earlier keys, with the `document_starts` of whole rows."""
    found, here = [], 0
    for run in runs:
        starts = None if document_starts is None else take(document_starts, [run])
        found.append(Run(here, here + len(run), start + run.stop, starts))
        here += len(run)
    return found


class Turn(NamedTuple):
    """Angles of rotation of some tokens."""

    cos: Tensor
    """`[tokens, qk_rope_head_dim / 2]`, or `[batch, tokens, ...]` where rows are at positions of their own."""
    sin: Tensor
    """The same shape."""

    def take(self, runs: Sequence[range]) -> Turn:
        """Take those of runs of positions."""
        return Turn(*(take(of, runs) if of.dim() == 3 else take(of[None], runs)[0] for of in self))


@dataclass(frozen=True)
class ForwardContext:
    """Positions, cache, documents and phase of one forward pass; `Backbone.context` makes it."""

    places: Places
    """Which tokens are computed here."""
    own: Sequence[Run]
    """Runs of own tokens."""
    heads: Sequence[Run]
    """Runs of heads' tokens."""
    turn: Turn
    """Of own tokens."""
    turn_heads: Turn
    """Of heads' tokens."""
    cache: Cache | None = None
    """Keys of the tokens before these, in inference."""
    padding: Tensor | None = None
    """Bool `[batch, own]`, true for padding: it gets no routed expert and adds nothing to losses and statistics."""
    document_starts: Tensor | None = None
    """Where each token's document starts, of whole rows (see `longcat.ops.documents`); none where every row is one document.
    With a cache it is the column in which the row begins."""
    phase: Phase = "sparse"
    """How attention is trained, if it is sparse."""

    _unread: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def unread(self, keys: int) -> Tensor:
        """Tell which of so many keys each query must not read, bool `[batch or 1, 1, queries, keys]`; made once for all layers."""
        if keys not in self._unread:
            turn = self.turn_heads.cos
            seen = readable(self.document_starts, turn.shape[-2], keys, turn.device)
            self._unread[keys] = ~seen.view(-1, 1, *seen.shape[-2:])
        return self._unread[keys]

    @cached_property
    def turn_halves(self) -> Turn:
        """Angles of heads' tokens for heads as `rotate` leaves them, in halves: `[..., qk_rope_head_dim]`."""
        return Turn(*(torch.cat([of, of], dim=-1) for of in self.turn_heads))

    @property
    def last_key(self) -> int:
        """Keys of the row up to the last query."""
        return max(run.keys for run in self.heads)
