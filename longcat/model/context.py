"""What all layers share in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from longcat.model.cache import Cache

Phase = Literal["dense", "warmup", "sparse"]
"""Of training sparse attention: dense without the indexer; dense, with the indexer learning from all keys; sparse."""


@dataclass(frozen=True)
class ForwardContext:
    """Made once by the backbone."""

    cos: Tensor
    """`[seq, qk_rope_head_dim / 2]`."""
    sin: Tensor
    """The same shape."""
    cache: Cache | None = None
    """Keys of the tokens before these, in inference."""
    padding: Tensor | None = None
    """Bool `[batch, seq]`, true for tokens that mean nothing: no expert is spent on them, and they count for nothing."""
    document_starts: Tensor | None = None
    """Where each token's document starts (see `longcat.ops.documents`); none where every row is one document."""
    phase: Phase = "sparse"
    """How attention is trained, if it is sparse."""
