"""Multi-head latent attention (MLA) with LongCat's variance-alignment scales, dense or sparse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longcat.config import ModelConfig
from longcat.model.context import ForwardContext
from longcat.model.indexer import Indexer, IndexerOutput
from longcat.model.merged_attention import MergedAttention
from longcat.model.module import Module
from longcat.model.norm import RMSNorm
from longcat.model.places import local
from longcat.model.scaling import mla_alignment
from longcat.ops.attention import causal_attention
from longcat.ops.rotary import rotate, softmax_sharpening
from longcat.ops.sparse_attention import sparse_attention

LORA_NORM_EPS = 1e-6
"""The two norms inside attention keep this epsilon in the reference implementation, whatever `rms_norm_eps` says."""


class LatentAttention(Module):
    """Causal attention over a query of rank `q_lora_rank` and keys and values of rank `kv_lora_rank`.

    The compressed query and key-value are scaled, see `longcat.model.scaling.mla_alignment`; the rotated part of the key
    is not. The heads may be divided over processes, and the tokens, see `longcat.model.places`. With sparse attention the first sublayer of a layer owns an indexer, and the second one follows it.
    """

    def __init__(self, config: ModelConfig, *, owns_indexer: bool) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.nope_dim, self.rope_dim, self.v_dim = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        self.kv_rank = config.kv_lora_rank
        hidden, bias = config.hidden_size, config.attention_bias
        self.q_scale = mla_alignment(hidden, config.q_lora_rank) if config.mla_scale_q_lora else 1.0
        self.kv_scale = mla_alignment(hidden, config.kv_lora_rank) if config.mla_scale_kv_lora else 1.0
        self.scale = (self.nope_dim + self.rope_dim) ** -0.5 * softmax_sharpening(config.rope_scaling)

        self.q_a_proj = nn.Linear(hidden, config.q_lora_rank, bias=bias)
        self.q_a_layernorm = RMSNorm(config.q_lora_rank, LORA_NORM_EPS)
        self.q_b_proj = nn.Linear(config.q_lora_rank, self.heads * (self.nope_dim + self.rope_dim), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, self.kv_rank + self.rope_dim, bias=bias)
        self.kv_a_layernorm = RMSNorm(self.kv_rank, LORA_NORM_EPS)
        self.kv_b_proj = nn.Linear(self.kv_rank, self.heads * (self.nope_dim + self.v_dim), bias=False)
        self.o_proj = nn.Linear(self.heads * self.v_dim, hidden, bias=bias)
        self.is_sparse = config.sparse_attention is not None
        sparse = config.sparse_attention if owns_indexer else None
        self.indexer = None if sparse is None else Indexer(config, sparse)
        self.merged: MergedAttention | None = None
        """For single tokens after cached ones, in inference with weights that stay as they are; where it was made."""

    def forward(
        self, x: Tensor, context: ForwardContext, sublayer: int, selection: IndexerOutput | None = None
    ) -> tuple[Tensor, IndexerOutput | None, Tensor | None]:
        """Attend, and let the indexer learn from it.

        Args:
            x: `[batch, own, hidden]`.
            context: with a cache, attention goes to what it holds of this sublayer too.
            sublayer: number in the whole model, two for each layer.
            selection: of the layer's first sublayer, for the second one; replaces that of an own indexer.

        Returns:
            The output, of x's shape; what the indexer chose; in training the indexer's summed loss.
        """
        places = context.places
        if self.merged is not None and x.shape[1] == 1 and context.cache is not None and context.cache.length > 1:
            return self.merged(x, context, sublayer), None, None
        compressed = self.q_a_layernorm(self.q_a_proj(x), self.q_scale)
        if self.indexer is not None and selection is None and context.phase != "dense":
            selection = self.indexer(x, compressed, context, sublayer // 2)
        q = F.linear(places.to_heads(compressed), local(self.q_b_proj.weight))
        q_nope, q_rope = self._by_heads(q, self.rope_dim).split_with_sizes([self.nope_dim, self.rope_dim], -1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split_with_sizes([self.kv_rank, self.rope_dim], -1)
        latent = self.kv_a_layernorm(latent, self.kv_scale)
        q_rope = self.operators.run(rotate, q_rope, *context.turn_heads)
        k_rope = self.operators.run(rotate, k_rope.unsqueeze(2), *context.turn).squeeze(2)

        cached_latents = None
        if context.cache is None:
            latent, k_rope = places.to_rows(latent, k_rope)
        else:
            cached_latents = context.cache.extend_latents(sublayer, torch.cat([latent, k_rope], dim=-1))
        loss = None
        if selection is not None and selection.keys is not None:
            cached_latents = torch.cat([latent, k_rope], dim=-1) if cached_latents is None else cached_latents
            out, attended = self._sparse(q_nope, q_rope, cached_latents, places.to_heads(selection.keys))
            if self.training:
                loss = selection.sparse_loss(places.mean_over_heads(attended), context)
        elif cached_latents is not None and cached_latents.shape[1] > x.shape[1] and self._is_few(x.shape[1]):
            out = self._absorbed(q_nope, q_rope, cached_latents, context)
        else:
            if cached_latents is not None:
                latent, k_rope = cached_latents.split_with_sizes([self.kv_rank, self.rope_dim], -1)
            q, k, v = self._keys_of_heads(q_nope, q_rope, latent, k_rope, context)
            parts = [
                self.operators.run(
                    causal_attention, run.of(q, 2), run.read(k, 2), run.read(v, 2), self.scale, run.document_starts
                )
                for run in context.heads
            ]
            out = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)).transpose(1, 2).flatten(2)
            if self.training and selection is not None:
                loss = selection.dense_loss(q, k, self.scale, context)
        return places.project(out, local(self.o_proj.weight), self.o_proj.bias), selection, loss

    def _keys_of_heads(
        self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, context: ForwardContext
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Make queries, keys and values of the heads here, `[batch, heads, tokens, dim]`, of keys that any of the queries reads."""
        latent, k_rope = (
            of if of.shape[1] == context.last_key else of[:, : context.last_key] for of in (latent, k_rope)
        )
        kv = self._by_heads(F.linear(latent, local(self.kv_b_proj.weight)), self.v_dim)
        k_nope, v = kv.split_with_sizes([self.nope_dim, self.v_dim], -1)
        q = torch.cat([q_nope, q_rope], dim=-1).transpose(1, 2)
        k = torch.cat([k_nope, k_rope.unsqueeze(2).expand(-1, -1, k_nope.shape[2], -1)], dim=-1).transpose(1, 2)
        return q, k, v.transpose(1, 2)

    def _is_few(self, queries: int) -> bool:
        """Say whether keys and values of all heads are not worth making: products are wider in the space of the latent."""
        made = self.nope_dim + self.v_dim
        return queries * (2 * self.kv_rank - made) <= self.kv_rank * made

    def _absorbed(self, q_nope: Tensor, q_rope: Tensor, cached_latents: Tensor, context: ForwardContext) -> Tensor:
        """Attend in the space of the latent, without keys and values of single heads (arXiv 2405.04434, 2.1.2).

        Args:
            q_nope: `[batch, new, heads, nope]`.
            q_rope: `[batch, new, heads, rope]`.
            cached_latents: `[batch, length, rank + rope]`, the new positions last.
            context: says where the rows begin.

        Returns:
            `[batch, new, heads * v_head_dim]`.
        """
        up_key, up_value = self.up()
        batch, new, heads, _ = q_nope.shape
        length = cached_latents.shape[1]
        query = torch.cat([_by_head(q_nope, up_key), q_rope], dim=-1)
        query = query.transpose(1, 2).reshape(batch, heads * new, -1)
        scores = torch.bmm(query, cached_latents.mT).view(batch, heads, new, length).float() * self.scale
        if new > 1 or context.document_starts is not None:
            scores = scores.masked_fill_(context.unread(length), -torch.inf)
        weights = scores.softmax(-1).to(query.dtype).view(batch, heads * new, length)
        latent = torch.bmm(weights, cached_latents[..., : self.kv_rank]).view(batch, heads, new, -1)
        return _by_head(latent.transpose(1, 2), up_value.mT).flatten(2)

    def _sparse(self, q_nope: Tensor, q_rope: Tensor, cached_latents: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to chosen keys `[batch, new, chosen]` only; also returns their probabilities, fp32, the mean over heads."""
        up_key, up_value = self.up()
        query = torch.cat([_by_head(q_nope, up_key), q_rope], dim=-1)
        latent, attended = self.operators.run(sparse_attention, query, cached_latents, keys, self.kv_rank, self.scale)
        return _by_head(latent, up_value.mT).flatten(2), attended

    def _by_heads(self, x: Tensor, beside: int) -> Tensor:
        """Split the last dimension into heads, each of the width without position and one beside it."""
        return x.unflatten(-1, (-1, self.nope_dim + beside))

    def up(self) -> tuple[Tensor, Tensor]:
        """Split kv_b_proj into the parts that make keys `[heads, nope, rank]` and values `[heads, v, rank]`."""
        up = local(self.kv_b_proj.weight).view(-1, self.nope_dim + self.v_dim, self.kv_rank)
        up_key, up_value = up.split_with_sizes([self.nope_dim, self.v_dim], 1)
        return up_key, up_value


def _by_head(x: Tensor, matrices: Tensor) -> Tensor:
    """Multiply each head's rows `[batch, seq, heads, in]` by its own matrix `[heads, in, out]`."""
    batch, seq, heads, _ = x.shape
    product = torch.bmm(x.permute(2, 0, 1, 3).reshape(heads, batch * seq, -1), matrices)
    return product.view(heads, batch, seq, -1).permute(1, 2, 0, 3)
