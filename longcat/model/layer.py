"""One LongCat layer: two attention and two dense sublayers with a shortcut-connected mixture of experts (ScMoE)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from longcat.config import ModelConfig
from longcat.model.attention import LatentAttention
from longcat.model.cache import Cache
from longcat.model.experts import MixtureOfExperts
from longcat.model.norm import RMSNorm


class FeedForward(nn.Module):
    """Dense SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., hidden]` to the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """The mixture reads what the first dense sublayer reads, and its output joins at the very end of the layer.

    So the tokens' way to other processes and back can hide behind the dense sublayers (arXiv 2509.01322, figure 2).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.mlp = MixtureOfExperts(config)
        self.self_attn = nn.ModuleList(LatentAttention(config) for _ in range(2))
        self.mlps = nn.ModuleList(FeedForward(hidden, config.ffn_hidden_size) for _ in range(2))
        self.input_layernorm = nn.ModuleList(RMSNorm(hidden, eps) for _ in range(2))
        self.post_attention_layernorm = nn.ModuleList(RMSNorm(hidden, eps) for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None = None, layer: int = 0) -> Tensor:
        """`[batch, seq, hidden]` to the same shape; `cos` and `sin` are `[seq, qk_rope_head_dim / 2]`."""
        x = x + self.self_attn[0](self.input_layernorm[0](x), cos, sin, cache, 2 * layer)
        h = self.post_attention_layernorm[0](x)
        shortcut = self.mlp(h)
        x = x + self.mlps[0](h)
        x = x + self.self_attn[1](self.input_layernorm[1](x), cos, sin, cache, 2 * layer + 1)
        x = x + self.mlps[1](self.post_attention_layernorm[1](x))
        return x + shortcut
