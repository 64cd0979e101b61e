"""The data that all layers share in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from longcat.model.cache import Cache

Phase = Literal["dense", "warmup", "sparse"]
"""Phases of training sparse attention: dense without the indexer; dense, with the indexer learning from all keys; sparse."""


@dataclass(frozen=True)
class ForwardContext:
    """Positions, cache, documents and phase of one forward pass; `Backbone.context` makes it."""

    cos: Tensor
    """`[seq, qk_rope_head_dim / 2]`."""
    sin: Tensor
    """The same shape."""
    cache: Cache | None = None
    """Keys of the tokens before these, in inference."""
    padding: Tensor | None = None
    """Bool `[batch, seq]`, true for padding: it gets no routed expert and adds nothing to losses and statistics."""
    document_starts: Tensor | None = None
    """Where each token's document starts (see `longcat.ops.documents`); none where every row is one document."""
    phase: Phase = "sparse"
    """How attention is trained, if it is sparse."""
