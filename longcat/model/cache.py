"""The cache of generation: the compressed key-value of each attention sublayer for all tokens so far."""

from __future__ import annotations

import torch
from torch import Tensor


class Cache:
    """Holds the tokens so far, and `kv_lora_rank + qk_rope_head_dim` numbers per token and sublayer.

    With sparse attention each layer's indexer adds `index_head_dim` numbers.
    """

    def __init__(self, layers: int) -> None:
        self.tokens: Tensor | None = None
        """Int64 `[batch, length]`, all tokens so far; n-grams look back at them."""
        self.latents: list[Tensor | None] = [None] * (2 * layers)
        """Of each sublayer `[batch, length, kv_lora_rank + qk_rope_head_dim]`: normed and scaled latent, rotated key."""
        self.index_keys: list[Tensor | None] = [None] * layers
        """Of each layer's indexer `[batch, length, index_head_dim]`."""

    @property
    def length(self) -> int:
        """Number of tokens so far."""
        return 0 if self.tokens is None else self.tokens.shape[1]

    def extend_tokens(self, tokens: Tensor) -> Tensor:
        """Add tokens `[batch, new]`; returns all of them."""
        self.tokens = tokens if self.tokens is None else torch.cat([self.tokens, tokens], dim=1)
        return self.tokens

    def extend_latents(self, sublayer: int, latents: Tensor) -> Tensor:
        """Add a sublayer's `[batch, new, rank + rope]`; returns all of them."""
        return _extend(self.latents, sublayer, latents)

    def extend_index_keys(self, layer: int, keys: Tensor) -> Tensor:
        """Add an indexer's `[batch, new, dim]`; returns all of them."""
        return _extend(self.index_keys, layer, keys)


def _extend(kept: list[Tensor | None], place: int, new: Tensor) -> Tensor:
    old = kept[place]
    whole = new if old is None else torch.cat([old, new], dim=1)
    kept[place] = whole
    return whole
