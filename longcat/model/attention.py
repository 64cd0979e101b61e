"""Multi-head latent attention (MLA) with LongCat's variance-alignment scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longcat.config import ModelConfig
from longcat.model.cache import Cache
from longcat.model.norm import RMSNorm
from longcat.ops.attention import causal_attention
from longcat.ops.rotary import rotate

LORA_NORM_EPS = 1e-6
"""The two norms inside attention keep this epsilon in the reference implementation, whatever `rms_norm_eps` says."""


class LatentAttention(nn.Module):
    """Causal attention over a query of rank `q_lora_rank` and keys and values of rank `kv_lora_rank`.

    The compressed query and key-value are scaled by sqrt(hidden_size / rank), so that their variance does not depend on
    the ranks (arXiv 2509.01322, variance alignment); the rotated part of the key is not scaled.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.nope_dim, self.rope_dim, self.v_dim = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        self.kv_rank = config.kv_lora_rank
        hidden, bias = config.hidden_size, config.attention_bias
        self.q_scale = (hidden / config.q_lora_rank) ** 0.5 if config.mla_scale_q_lora else 1.0
        self.kv_scale = (hidden / config.kv_lora_rank) ** 0.5 if config.mla_scale_kv_lora else 1.0

        self.q_a_proj = nn.Linear(hidden, config.q_lora_rank, bias=bias)
        self.q_a_layernorm = RMSNorm(config.q_lora_rank, LORA_NORM_EPS)
        self.q_b_proj = nn.Linear(config.q_lora_rank, self.heads * (self.nope_dim + self.rope_dim), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, self.kv_rank + self.rope_dim, bias=bias)
        self.kv_a_layernorm = RMSNorm(self.kv_rank, LORA_NORM_EPS)
        self.kv_b_proj = nn.Linear(self.kv_rank, self.heads * (self.nope_dim + self.v_dim), bias=False)
        self.o_proj = nn.Linear(self.heads * self.v_dim, hidden, bias=bias)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None = None, sublayer: int = 0) -> Tensor:
        """`[batch, seq, hidden]` to the same shape; `cos` and `sin` are `[seq, qk_rope_head_dim / 2]`.

        With a cache, attention goes to what it holds of this `sublayer` too.
        """
        batch, seq, _ = x.shape
        # scaling the norm's output scales both parts of the query, and costs a multiplication of the small rank only
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)) * self.q_scale).view(batch, seq, self.heads, -1)
        q_nope, q_rope = q.split([self.nope_dim, self.rope_dim], dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([self.kv_rank, self.rope_dim], dim=-1)
        latent, k_rope = self.kv_a_layernorm(latent) * self.kv_scale, rotate(k_rope.unsqueeze(2), cos, sin)
        q_rope = rotate(q_rope, cos, sin)
        if cache is not None:
            known = cache.extend(sublayer, torch.cat([latent, k_rope.squeeze(2)], dim=-1))
            return self.o_proj(self._absorbed(q_nope, q_rope, known))
        k_nope, v = self.kv_b_proj(latent).view(batch, seq, self.heads, -1).split([self.nope_dim, self.v_dim], dim=-1)
        q = torch.cat([q_nope, q_rope], dim=-1).transpose(1, 2)
        k = torch.cat([k_nope, k_rope.expand(-1, -1, self.heads, -1)], dim=-1).transpose(1, 2)
        out = causal_attention(q, k, v.transpose(1, 2))
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _absorbed(self, q_nope: Tensor, q_rope: Tensor, known: Tensor) -> Tensor:
        """Attention in the space of the latent: keys and values of single heads are never made (arXiv 2405.04434, 2.1.2).

        Args:
            q_nope: `[batch, new, heads, nope]`.
            q_rope: `[batch, new, heads, rope]`.
            known: `[batch, length, rank + rope]`, the new positions last.

        Returns:
            `[batch, new, heads * v_head_dim]`.
        """
        up = self.kv_b_proj.weight.view(self.heads, self.nope_dim + self.v_dim, self.kv_rank)
        up_key, up_value = up.split([self.nope_dim, self.v_dim], dim=1)
        query = torch.cat([torch.einsum("bshn,hnr->bshr", q_nope, up_key), q_rope], dim=-1)
        scores = torch.einsum("bshr,blr->bhsl", query, known) * (self.nope_dim + self.rope_dim) ** -0.5
        new, length = scores.shape[-2:]
        future = torch.ones(new, length, dtype=torch.bool, device=known.device).triu(length - new + 1)
        weights = scores.float().masked_fill(future, -torch.inf).softmax(-1).to(known.dtype)
        latent = torch.einsum("bhsl,blr->bshr", weights, known[..., : self.kv_rank])
        return torch.einsum("bshr,hvr->bshv", latent, up_value).flatten(2)
