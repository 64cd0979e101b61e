"""The whole model: embedding, layers, norm, head and the language-model loss.

Parameter names are those of Hugging Face's `LongcatFlashForCausalLM`.
"""

from __future__ import annotations

import hashlib
from typing import cast

import torch
from torch import Tensor, nn

from longcat.config import ModelConfig
from longcat.model.cache import Cache
from longcat.model.layer import Layer
from longcat.model.ngram import NgramEmbedding
from longcat.model.norm import RMSNorm
from longcat.ops.linear_cross_entropy import linear_cross_entropy
from longcat.ops.rotary import rotary_angles


class Backbone(nn.Module):
    """Token embedding, layers and final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rope_dim, self.rope_theta = config.qk_rope_head_dim, config.rope_theta
        self.embed_tokens = nn.Embedding(config.vocabulary, config.hidden_size)
        self.ngram_embeddings = (
            None if config.ngram is None else NgramEmbedding(config.ngram, config.vocabulary, config.hidden_size)
        )
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Int64 `[batch, seq]`, which follow what the cache holds, to `[batch, seq, hidden]`."""
        start = 0 if cache is None else cache.length
        seen = tokens if cache is None else cache.extend_tokens(tokens)
        x = self.embed_tokens(tokens)
        if self.ngram_embeddings is not None:
            x = self.ngram_embeddings(x, seen)
        positions = torch.arange(start, start + tokens.shape[1], device=x.device)
        cos, sin = rotary_angles(positions, self.rope_dim, self.rope_theta)
        for number, layer in enumerate(self.layers):
            x = layer(x, cos, sin, cache, number)
        return self.norm(x)


class LongcatModel(nn.Module):
    """LongCat-Flash for causal language modelling."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocabulary, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Logits, or with `targets` the summed loss.

        Args:
            tokens: int64 `[batch, seq]`.
            targets: int64 `[batch, seq]`, the token that follows each one.
            cache: holds the tokens before these, and gets these; for inference.

        Returns:
            fp32 logits `[batch, seq, vocab]`, or the fp32 sum of negative log-likelihoods in nats.
        """
        hidden = self.model(tokens, cache)
        if targets is None:
            return self.lm_head(hidden).float()
        return linear_cross_entropy(hidden.flatten(0, 1), self.lm_head.weight, targets.flatten())

    def new_cache(self) -> Cache:
        """An empty cache for `forward`."""
        return Cache(2 * self.config.num_layers)

    @property
    def blocks(self) -> list[Layer]:
        """The layers, as what they are."""
        return [cast(Layer, layer) for layer in self.model.layers]

    def initialize(self, seed: int) -> None:
        """Draw weights from normal(0, initializer_range), norms 1; the values depend on seed and name, not on the order."""
        for name, parameter in self.named_parameters():
            with torch.no_grad():
                if parameter.dim() == 1:
                    parameter.fill_(1.0 if "norm" in name else 0.0)
                    continue
                draw = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7]
                generator = torch.Generator(parameter.device).manual_seed(int.from_bytes(draw, "big"))
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)
