"""The lightning indexer of LongCat Sparse Attention: which keys the two attention sublayers of a layer read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from longcat.config import ModelConfig, SparseAttentionConfig
from longcat.model.context import ForwardContext
from longcat.model.module import Module
from longcat.model.norm import RMSNorm
from longcat.ops.rotary import rotate
from longcat.ops.sparse_attention import dense_index_loss, select_keys, sparse_index_loss


@dataclass(frozen=True)
class IndexerOutput:
    """The indexer's scores and choice, made by a layer's first sublayer and shared by the second (cross-layer indexing)."""

    query: Tensor
    """`[batch, own, index heads, dim]`."""
    key: Tensor
    """Of whole rows, `[batch, length, dim]`."""
    weight: Tensor
    """`[batch, own, index heads]`."""
    keys: Tensor | None
    """Int64 `[batch, own, index_topk]` positions to read, -1 for none; none reads all up to the query."""

    def dense_loss(self, query: Tensor, key: Tensor, scale: float, context: ForwardContext) -> Tensor:
        """Sum the indexer's divergence over own queries from dense attention of `query` and `key`, `[batch, heads, tokens, dim]`.

        They are those of heads' tokens, and of the row up to the last one. Padding is excluded. Collective, where heads are divided.
        """
        losses = [
            dense_index_loss(
                own.of(self.query),
                of_heads.read(self.key),
                own.of(self.weight),
                of_heads.of(query, 2),
                of_heads.read(key, 2),
                scale,
                of_heads.document_starts,
                None if context.padding is None else own.of(context.padding),
                context.places.share,
            )
            for own, of_heads in zip(context.own, context.heads, strict=True)
        ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def sparse_loss(self, attended: Tensor, context: ForwardContext) -> Tensor:
        """Sum the indexer's divergence from sparse attention's probabilities of the chosen keys, fp32 `[batch, own, index_topk]`."""
        assert self.keys is not None
        if context.padding is not None:
            attended = attended.masked_fill(context.padding[..., None], 0.0)
        return sparse_index_loss(self.query, self.key, self.weight, self.keys, attended)


class Indexer(Module):
    """Scores every key for every query with a few small heads (arXiv 2608.01662).

    Its inputs are cut from the graph: it learns from the divergence alone, and the model does not learn from it.
    """

    def __init__(self, config: ModelConfig, sparse: SparseAttentionConfig) -> None:
        super().__init__()
        self.sparse = sparse
        self.heads, self.dim, self.rope_dim = sparse.index_n_heads, sparse.index_head_dim, config.qk_rope_head_dim
        self.wq_b = nn.Linear(config.q_lora_rank, self.heads * self.dim, bias=False)
        self.wk = nn.Linear(config.hidden_size, self.dim, bias=False)
        self.k_norm = RMSNorm(self.dim, config.rms_norm_eps)
        self.weights_proj = nn.Linear(config.hidden_size, self.heads, bias=False)

    def forward(self, x: Tensor, compressed_query: Tensor, context: ForwardContext, layer: int) -> IndexerOutput:
        """Choose keys for `x` `[batch, own, hidden]`, whose scaled compressed query is `[batch, own, q_lora_rank]`."""
        x, compressed_query = x.detach(), compressed_query.detach()
        query = self._rotated(self.wq_b(compressed_query).unflatten(-1, (self.heads, self.dim)), context)
        key = self._rotated(self.k_norm(self.wk(x)).unsqueeze(2), context).squeeze(2)
        weight = self.weights_proj(x) * (self.heads * self.dim) ** -0.5
        if context.cache is None:
            (key,) = context.places.to_rows(key)
        else:
            key = context.cache.extend_index_keys(layer, key)
        length, keys = key.shape[1], None
        if context.phase == "sparse" and length > self.sparse.index_topk:
            by_pages = (
                not self.training and context.document_starts is None and length >= self.sparse.hierarchical_from_tokens
            )
            by_pages = by_pages and layer >= self.sparse.hierarchical_after_layers
            chosen = [
                self.operators.run(
                    select_keys,
                    run.of(query),
                    run.read(key),
                    run.of(weight),
                    self.sparse,
                    hierarchical=by_pages,
                    document_starts=run.document_starts,
                )
                for run in context.own
            ]
            keys = chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=1)
        return IndexerOutput(query, key, weight, keys)

    def _rotated(self, x: Tensor, context: ForwardContext) -> Tensor:
        turned, plain = x.split([self.rope_dim, self.dim - self.rope_dim], dim=-1)
        return torch.cat([self.operators.run(rotate, turned, *context.turn), plain], dim=-1)
