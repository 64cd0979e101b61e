"""Attention of single tokens over a cache with weights that are multiplied beforehand (arXiv 2405.04434, 2.1.2).

A query reads latents: what makes keys of them goes into the weights of the query, and what makes values of them into those of the
output. The rotation of an angle is x cos + y sin, where y are the numbers of x in another order with other signs: the
weights that make y stand beside those that make x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.model.context import ForwardContext

if TYPE_CHECKING:
    from longcat.model.attention import LatentAttention

MOST_NUMBERS = 1.25
"""Weights that are worth merging, as a multiple of those that they replace: to read them is most of the work."""


def is_worth_merging(attention: LatentAttention) -> bool:
    """Say whether merged weights of a sublayer with dense attention are not much larger than its own ones."""
    a, hidden, q_rank = attention, attention.o_proj.out_features, attention.q_a_proj.out_features
    own = q_rank * (a.nope_dim + a.rope_dim) + (a.nope_dim + a.v_dim) * a.kv_rank + a.v_dim * hidden
    merged = q_rank * (a.kv_rank + 2 * a.rope_dim) + a.kv_rank * hidden
    return not a.is_sparse and merged <= MOST_NUMBERS * own


class MergedAttention:
    """The weights of a sublayer, merged; they do not follow it when it changes."""

    @torch.no_grad()
    def __init__(self, of: LatentAttention) -> None:
        self.sizes = [of.q_a_proj.out_features, of.kv_rank + of.rope_dim, of.rope_dim]
        self.heads, self.rank = of.heads, of.kv_rank
        self.queries = of.heads * (of.kv_rank + of.rope_dim)
        up_key, up_value = of.up()
        down, biases = of.kv_a_proj_with_mqa.weight, [of.q_a_proj.bias, of.kv_a_proj_with_mqa.bias]
        self.inputs = _laid(_beside(of.q_a_proj.weight, down, self.rank))
        self.bias = None if biases[0] is None or biases[1] is None else _beside(biases[0], biases[1], self.rank)

        query = of.q_b_proj.weight * (of.q_a_layernorm.weight * (of.q_scale * of.scale))
        nope, rope = query.unflatten(0, (of.heads, -1)).split_with_sizes([of.nope_dim, of.rope_dim], 1)
        halves, turned = _halves(rope.transpose(0, 1))
        straight = torch.cat([up_key.mT @ nope, halves.transpose(0, 1)], 1)
        self.query = _laid(torch.cat([straight.flatten(0, 1), turned.transpose(0, 1).flatten(0, 1)]))
        self.latent_weight = of.kv_a_layernorm.weight * of.kv_scale
        self.eps = torch.tensor(of.kv_a_layernorm.eps, device=down.device)  # of both norms
        output = of.o_proj.weight.unflatten(1, (of.heads, -1)).transpose(0, 1) @ up_value
        self.output, self.output_bias = _laid(output.transpose(0, 1).flatten(1)), of.o_proj.bias

    def __call__(self, x: Tensor, context: ForwardContext, sublayer: int) -> Tensor:
        """Attend for `[batch, 1, hidden]`, whose rows have tokens in the cache before; returns the same shape."""
        cache, (cos, sin) = context.cache, context.turn_halves
        assert cache is not None
        rows = x.shape[0]
        compressed, latent, turned = F.linear(x, self.inputs, self.bias).split_with_sizes(self.sizes, -1)
        compressed.mul_(self._over_root_mean_square(compressed))
        content = latent[..., : self.rank]
        content.mul_(self._over_root_mean_square(content)).mul_(self.latent_weight)
        latent[..., self.rank :].mul_(cos).addcmul_(turned, sin)
        cached = cache.extend_latents(sublayer, latent)

        asked = F.linear(compressed, self.query)
        query = asked[..., : self.queries].view(rows, self.heads, -1)
        query[..., self.rank :].mul_(cos).addcmul_(asked[..., self.queries :].view(rows, self.heads, -1), sin)
        scores = torch.bmm(query, cached.mT)
        if context.document_starts is not None:
            scores.masked_fill_(context.unread(cached.shape[1])[:, 0], -torch.inf)
        read = torch.bmm(scores.softmax(-1), cached[..., : self.rank])
        return F.linear(read.view(rows, 1, -1), self.output, self.output_bias)

    def _over_root_mean_square(self, x: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return torch.addcmul(self.eps, lengths, lengths, value=1 / x.shape[-1]).rsqrt_()


def _beside(query: Tensor, latent: Tensor, rank: int) -> Tensor:
    """Put weights or biases of the compressed query and key-value together, and those of the turned key last."""
    content, rope = latent.split_with_sizes([rank, len(latent) - rank])
    return torch.cat([query, content, *_halves(rope)])


def _halves(rope: Tensor) -> tuple[Tensor, Tensor]:
    """Order rows that make pairs as `rotate` does, first halves before second ones; and those of what is turned by 90 degrees."""
    first, second = rope[0::2], rope[1::2]
    return torch.cat([first, second]), torch.cat([-second, first])


def _laid(weight: Tensor) -> Tensor:
    """Lay `[out, in]` so that what belongs to one input is together, as a CPU multiplies few rows by it."""
    return weight.detach().mT.contiguous().mT
