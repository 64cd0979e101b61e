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


def bias_update_rate(step: int, steps: int, balance: BalanceConfig) -> float:
    """Rate mu in optimizer step `step` (0-based) of `steps`: a straight line from the first value to its final share."""
    progress = min(1.0, step / max(1, steps - 1))
    return balance.bias_update_rate * (1 - progress * (1 - balance.final_bias_update_fraction))


@torch.no_grad()
def update_router_bias(bias: Tensor, load: Tensor, model: ModelConfig, balance: BalanceConfig, mu: float) -> None:
    """Move one layer's selection bias in place.

    Args:
        bias: fp32 `[n_routed_experts + zero_expert_num]`.
        load: slots given to each expert over the whole batch and all processes, same shape.
        model: gives N and K.
        balance: gives K_e.
        mu: see `bias_update_rate`.
    """
    routed = model.n_routed_experts
    wanted = target_ffn_experts(model, balance) / model.moe_topk / routed
    bias[:routed] += mu * (wanted - load[:routed] / load.sum())


def load_metrics(load: Tensor, model: ModelConfig) -> dict[str, float]:
    """What the load of all layers `[layers, experts]` says: for the metrics.

    `moe/ffn_experts_per_token`: mean routed experts of a token; `moe/max_load`: the busiest routed expert's load over
    the mean one's, in the worst layer.
    """
    routed = load[:, : model.n_routed_experts]
    return {
        "moe/ffn_experts_per_token": float(model.moe_topk * routed.sum() / load.sum()),
        "moe/max_load": float((routed.amax(1) / routed.mean(1).clamp_min(1e-9)).max()),
    }
