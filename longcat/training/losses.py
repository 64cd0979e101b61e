"""What a step minimises: the next token's loss, and what is learnt beside it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from longcat.config import ModelConfig, PipelineConfig, target_ffn_experts
from longcat.model.transformer import LossSums

AUXILIARY = ("mtp", "indexer", "balance", "hidden_z")
"""Losses beside the next token's, by the name of their weight in `training.losses`."""


class Counts(NamedTuple):
    """What the sums over a whole batch, of all processes, are divided by: int64 scalars, at least 1."""

    tokens: Tensor
    """Without padding."""
    targets: Tensor
    """Of the next token; those that are not learnt do not count."""


def balance_loss(probability: Tensor, load: Tensor, model: ModelConfig, target: float, groups: int) -> Tensor:
    """Device-level balance, sum_j f_j P_j over D groups of routed experts and one of all zero-computation experts.

    P_j is the mean probability of a token for group j; f_j is the group's share of slots over its wanted one, D / (K_e T)
    times its slots for routed experts and 1 / ((K - K_e) T) times them for zero experts, so that all f_j are 1 in balance
    (arXiv 2509.01322, section on zero-computation experts).

    Args:
        probability: sums over tokens `[layers, experts]`, with gradient.
        load: slots `[layers, experts]`.
        model: gives N, K and the number of zero experts.
        target: K_e.
        groups: D, divides N.

    Returns:
        fp32 scalar: the mean over the batch, summed over layers.
    """
    routed = model.n_routed_experts
    tokens = (load.sum(1, keepdim=True) / model.moe_topk).clamp_min(1)
    share = load[:, :routed].unflatten(1, (groups, -1)).sum(2) * groups / (target * tokens)
    mean = probability[:, :routed].unflatten(1, (groups, -1)).sum(2) / tokens
    loss = (share * mean).sum()
    if model.zero_expert_num and target < model.moe_topk:
        zero_share = load[:, routed:].sum(1) / ((model.moe_topk - target) * tokens[:, 0])
        loss = loss + (zero_share * probability[:, routed:].sum(1) / tokens[:, 0]).sum()
    return loss


def active_losses(config: PipelineConfig) -> list[str]:
    """The auxiliary losses that this model has and that weigh something."""
    there = {"mtp": config.model.mtp_num_layers > 0, "indexer": config.model.sparse_attention is not None}
    settings = config.training.losses
    return [name for name in AUXILIARY if there.get(name, True) and getattr(settings, f"{name}_weight") > 0]


def losses(sums: LossSums, counts: Counts, config: PipelineConfig) -> dict[str, Tensor]:
    """A micro-batch's part of each loss, such that the parts of a batch with these counts add up to its mean; unweighted.

    `language_model` and the names in `AUXILIARY`. Multi-token prediction is divided by the next tokens' targets at every
    depth, though a depth has a few less (DeepSeek-V3 divides alike, arXiv 2412.19437, eq. 24).
    """
    settings, model = config.training.losses, config.model
    here = sums.router_load[0].sum() / model.moe_topk
    target = target_ffn_experts(model, config.training.balance)
    balance = balance_loss(sums.router_probability, sums.router_load, model, target, settings.balance_groups)
    return {
        "language_model": sums.language_model / counts.targets,
        "mtp": sums.mtp / (counts.targets * max(1, model.mtp_num_layers)),
        "indexer": sums.indexer / counts.tokens,
        "balance": balance * here / counts.tokens,
        "hidden_z": sums.hidden_z / counts.tokens,
    }


def weighted_total(parts: dict[str, Tensor], config: PipelineConfig) -> Tensor:
    """The weighted sum that is differentiated."""
    loss = parts["language_model"]
    for name in active_losses(config):
        weight: float = getattr(config.training.losses, f"{name}_weight")
        loss = loss + weight * parts[name]
    return loss
