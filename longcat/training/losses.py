"""Losses of a training step: that of the next token, and the auxiliary ones."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from longcat.config import ModelConfig, Phase, PipelineConfig, target_ffn_experts
from longcat.model.transformer import LossSums

AUXILIARY = ("mtp", "indexer", "balance", "importance", "hidden_z")
"""Auxiliary losses, by the name of their weight in `training.losses`."""


class Counts(NamedTuple):
    """Divisors of the sums over the global batch, of all processes: int64 scalars, at least 1."""

    tokens: Tensor
    """Tokens without padding."""
    targets: Tensor
    """Targets of the next token that are learnt."""


def balance_loss(probability: Tensor, load: Tensor, model: ModelConfig, target: float, groups: int) -> Tensor:
    """Return the device-level balance loss, sum_j f_j P_j over D groups of routed experts and one of all zero experts.

    P_j is the mean probability of a token for group j; f_j is the group's share of slots over its target one, D / (K_e T)
    times its slots for routed experts and 1 / ((K - K_e) T) times them for zero experts, so that all f_j are 1 in balance
    (arXiv 2509.01322, section on zero-computation experts). f_j is that of the micro-batch, not of the global batch.

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


def importance_loss(probability: Tensor, load: Tensor, model: ModelConfig, target: float) -> Tensor:
    """Return the importance loss, sum_j P_j^2 / t_j - 1 over all routed experts and the group of all zero experts.

    P_j is the mean probability of a token, and t_j the target of its share of slots: K_e / (K N) for a routed expert and
    1 - K_e / K for the zero experts. It is 0 where every P_j is t_j and grows with the square of the distance. Without zero
    experts it is the squared coefficient of variation of Shazeer et al. (arXiv 1701.06538, eq. 7).

    The balance loss cannot do this: f_j counts slots, which the selection bias keeps on target whatever the probabilities
    are, so a router may put all probability on one zero expert, whose scaled copy of the input is what it learns first.

    Args:
        probability: sums over tokens `[layers, experts]`, with gradient.
        load: slots `[layers, experts]`.
        model: gives N, K and the number of zero experts.
        target: K_e.

    Returns:
        fp32 scalar: the loss of the micro-batch, summed over layers.
    """
    routed, fraction = model.n_routed_experts, target / model.moe_topk
    mean = probability / (load.sum(1, keepdim=True) / model.moe_topk).clamp_min(1)
    loss = mean[:, :routed].square().sum(1) * routed / fraction
    if model.zero_expert_num and fraction < 1:
        loss = loss + mean[:, routed:].sum(1).square() / (1 - fraction)
    return (loss - 1).sum()


def active_losses(config: PipelineConfig) -> list[str]:
    """List the auxiliary losses that this model has and whose weight is not 0."""
    present = {"mtp": config.model.mtp_num_layers > 0, "indexer": config.model.sparse_attention is not None}
    settings = config.training.losses
    return [name for name in AUXILIARY if present.get(name, True) and getattr(settings, f"{name}_weight") > 0]


def losses(sums: LossSums, counts: Counts, config: PipelineConfig, row_processes: int = 1) -> dict[str, Tensor]:
    """Return the part of a micro-batch in each unweighted loss; the parts of all micro-batches add up to the batch's mean.

    With several processes to a row, the sums are those over a process' tokens, but the routers' probabilities and loads
    are of whole rows: each process' part of losses made from these is an equal one.

    Keys are `language_model` and the names in `AUXILIARY`. Multi-token prediction is divided by the number of next-token
    targets at every depth, although deeper ones have a few less (as in DeepSeek-V3, arXiv 2412.19437, eq. 24).
    """
    settings, model = config.training.losses, config.model
    here = sums.router_load[0].sum() / model.moe_topk
    target = target_ffn_experts(model, config.training.balance)
    balance = balance_loss(sums.router_probability, sums.router_load, model, target, settings.balance_groups)
    importance = importance_loss(sums.router_probability, sums.router_load, model, target)
    return {
        "language_model": sums.language_model / counts.targets,
        "mtp": sums.mtp / (counts.targets * max(1, model.mtp_num_layers)),
        "indexer": sums.indexer / counts.tokens,
        "balance": balance * here / (counts.tokens * row_processes),
        "importance": importance * here / (counts.tokens * row_processes),
        "hidden_z": sums.hidden_z / counts.tokens,
    }


def weighted_total(parts: dict[str, Tensor], config: PipelineConfig, phase: Phase = "sparse") -> Tensor:
    """Return the weighted sum that is differentiated; in the warm-up of the indexers, their loss alone."""
    if phase == "warmup":
        return config.training.losses.indexer_weight * parts["indexer"]
    loss = parts["language_model"]
    for name in active_losses(config):
        weight: float = getattr(config.training.losses, f"{name}_weight")
        loss = loss + weight * parts[name]
    return loss
