"""Keeping the experts' load on target by moving the router's selection bias.

For routed expert i, after each optimizer step (arXiv 2509.01322, section 2.1):

    b_i += mu * ( (K_e / K) / N  -  T_i / (K * T) )

with T_i the slots given to expert i in the whole batch of T tokens, K slots a token, N routed experts and K_e the wanted
mean number of routed experts a token. The bias of zero-computation experts stays 0: their share is what is left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.config import BalanceConfig, ModelConfig, target_ffn_experts


@torch.no_grad()
def move_bias(bias: Tensor, load: Tensor, model: ModelConfig, balance: BalanceConfig) -> None:
    """Move one layer's selection bias in place.

    Args:
        bias: fp32 `[n_routed_experts + zero_expert_num]`.
        load: slots given to each expert over the whole batch and all processes, same shape.
        model: gives N and K.
        balance: gives mu and K_e.
    """
    routed = model.n_routed_experts
    wanted = target_ffn_experts(model, balance) / model.moe_topk / routed
    bias[:routed] += balance.bias_update_rate * (wanted - load[:routed] / load.sum())


def load_figures(load: Tensor, model: ModelConfig) -> dict[str, float]:
    """What the load of all layers `[layers, experts]` says: for the metrics.

    `moe/ffn_experts_per_token`: mean routed experts of a token; `moe/max_load`: the busiest routed expert's load over
    the mean one's, in the worst layer.
    """
    routed = load[:, : model.n_routed_experts]
    return {
        "moe/ffn_experts_per_token": float(model.moe_topk * routed.sum() / load.sum()),
        "moe/max_load": float((routed.amax(1) / routed.mean(1).clamp_min(1e-9)).max()),
    }
