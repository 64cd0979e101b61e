"""Multi-head latent attention (MLA) with LongCat's variance-alignment scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longcat.config import ModelConfig
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

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`[batch, seq, hidden]` to the same shape; `cos` and `sin` are `[seq, qk_rope_head_dim / 2]`."""
        batch, seq, _ = x.shape
        # scaling the norm's output scales both parts of the query, and costs a multiplication of the small rank only
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)) * self.q_scale).view(batch, seq, self.heads, -1)
        q_nope, q_rope = q.split([self.nope_dim, self.rope_dim], dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([self.kv_rank, self.rope_dim], dim=-1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent) * self.kv_scale).view(batch, seq, self.heads, -1)
        k_nope, v = kv.split([self.nope_dim, self.v_dim], dim=-1)
        k_rope = rotate(k_rope.unsqueeze(2), cos, sin).expand(-1, -1, self.heads, -1)
        q = torch.cat([q_nope, rotate(q_rope, cos, sin)], dim=-1).transpose(1, 2)
        k = torch.cat([k_nope, k_rope], dim=-1).transpose(1, 2)
        out = causal_attention(q, k, v.transpose(1, 2))
        return self.o_proj(out.transpose(1, 2).flatten(2))
