"""Load balance of the experts: control of the router's selection bias, and the metrics that show it.

For routed expert i, after each optimizer step (arXiv 2509.01322, section 2.1):

    b_i += mu * ( (K_e / K) / N  -  T_i / (K * T) )

with T_i the slots given to expert i in the global batch of T tokens, K slots per token, N routed experts and K_e the target
mean number of routed experts per token. The bias of zero-computation experts stays 0: their share is what is left.

The bias is compared with probabilities, so mu has to be read relative to them. With Z zero-computation experts the mean
probability is 1 / (N + Z), and an expert without any token gains mu * K_e / (K N) per step, which is mu * K_e (N + Z) / (K N)
of the mean probability: a factor near 1 (1.0 for 8 + 4 experts, 0.78 for LongCat-2.0's 768 + 128, with K_e = 2/3 K). So mu is
the fraction of the mean probability by which the bias of a starved expert rises per step, and the same value means the same
for 12 experts and for 896. A step has to stay below the spread of p_i over tokens; otherwise the bias alone decides, and all
tokens move from one expert to another at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.config import BalanceConfig, ModelConfig, target_ffn_experts


def bias_update_rate(step: int, steps: int, balance: BalanceConfig) -> float:
    """Return mu in optimizer step `step` (0-based) of `steps`: linear from the first value to its final fraction."""
    progress = min(1.0, step / max(1, steps - 1))
    return balance.bias_update_rate * (1 - progress * (1 - balance.final_bias_update_fraction))


@torch.no_grad()
def update_router_bias(bias: Tensor, load: Tensor, model: ModelConfig, balance: BalanceConfig, mu: float) -> None:
    """Move the selection bias of one layer in place; a batch without any load leaves it as it is.

    Args:
        bias: fp32 `[n_routed_experts + zero_expert_num]`.
        load: slots given to each expert over the global batch, same shape.
        model: gives N and K.
        balance: gives K_e.
        mu: see `bias_update_rate`.
    """
    routed, slots = model.n_routed_experts, load.sum()
    target = target_ffn_experts(model, balance) / model.moe_topk / routed
    bias[:routed] += mu * (target * slots - load[:routed]) / slots.clamp_min(1)


def load_metrics(load: Tensor, model: ModelConfig) -> dict[str, float]:
    """Summarise the load of all layers in one optimizer step; all values are 0 for a batch without load.

    `moe/ffn_experts_per_token`: mean number of routed experts per token. `moe/max_load` and `moe/min_load`: load of the busiest
    and of the least used routed expert over the mean of its layer's routed experts, in the worst layer.

    Args:
        load: slots given to each expert over the global batch, `[layers, n_routed_experts + zero_expert_num]`.
        model: gives K and N.
    """
    routed = load[:, : model.n_routed_experts]
    relative = routed / routed.mean(1, keepdim=True).clamp_min(1e-9)
    return {
        "moe/ffn_experts_per_token": float(model.moe_topk * routed.sum() / load.sum().clamp_min(1)),
        "moe/max_load": float(relative.max()),
        "moe/min_load": float(relative.amin(1).min()),
    }


def layer_metrics(load: Tensor, entropy: Tensor, top_probability: Tensor, model: ModelConfig) -> dict[str, float]:
    """Describe the router of each layer in one optimizer step, under `moe/layer_<number>/`.

    `max_load` and `min_load`: load of the busiest and of the least used routed expert over the mean of the routed experts.
    `zero_expert_max`: fraction of the tokens that use the busiest zero-computation expert; at 1 every token spends a slot on
    the same one. `router_entropy` and `router_top_probability` show a router that has become certain.

    Args:
        load: slots given to each expert over the global batch, `[layers, n_routed_experts + zero_expert_num]`.
        entropy: mean over tokens of the entropy of the router's probabilities, in nats, `[layers]`.
        top_probability: mean over tokens of the largest probability, `[layers]`.
        model: gives K and the numbers of experts.
    """
    routed = load[:, : model.n_routed_experts]
    mean = routed.mean(1).clamp_min(1e-9)
    columns = {"max_load": routed.amax(1) / mean, "min_load": routed.amin(1) / mean}
    if model.zero_expert_num:
        tokens = load.sum(1).clamp_min(1) / model.moe_topk
        columns["zero_expert_max"] = load[:, model.n_routed_experts :].amax(1) / tokens
    columns |= {"router_entropy": entropy, "router_top_probability": top_probability}
    width = len(str(len(load) - 1))
    return {
        f"moe/layer_{layer:0{width}d}/{name}": value
        for layer, values in enumerate(torch.stack(list(columns.values()), 1).tolist())
        for name, value in zip(columns, values, strict=True)
    }
