"""What a model remembers of the tokens before: the compressed key-value of each attention sublayer."""

from __future__ import annotations

import torch
from torch import Tensor


class Cache:
    """Grows by the tokens of each forward pass; `kv_lora_rank + qk_rope_head_dim` numbers a token and sublayer."""

    def __init__(self, sublayers: int) -> None:
        self.tokens: Tensor | None = None
        """Int64 `[batch, length]`, all tokens seen; n-grams look back at them."""
        self.latents: list[Tensor | None] = [None] * sublayers
        """Of each sublayer `[batch, length, kv_lora_rank + qk_rope_head_dim]`: normed and scaled latent, rotated key."""

    @property
    def length(self) -> int:
        """Tokens seen."""
        return 0 if self.tokens is None else self.tokens.shape[1]

    def extend_tokens(self, tokens: Tensor) -> Tensor:
        """Add tokens `[batch, new]`; returns all of them."""
        self.tokens = tokens if self.tokens is None else torch.cat([self.tokens, tokens], dim=1)
        return self.tokens

    def extend(self, sublayer: int, latent: Tensor) -> Tensor:
        """Add a sublayer's `[batch, new, rank + rope]`; returns all of them."""
        old = self.latents[sublayer]
        whole = latent if old is None else torch.cat([old, latent], dim=1)
        self.latents[sublayer] = whole
        return whole
