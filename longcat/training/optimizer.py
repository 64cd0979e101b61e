"""Which optimizer moves which parameters."""

from __future__ import annotations

import torch
from torch import nn

from longcat.config import OptimizerConfig
from longcat.training.muon import Muon


def build_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """One optimizer, or two.

    Projections and experts decay; embeddings, norms and biases do not. `adamw` moves everything; `muon` moves
    projections and experts, and leaves embeddings, head, router, norms and biases to AdamW.
    """
    hidden, decayed, free = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or "embed_tokens" in name or "ngram_embeddings.tables" in name:
            free.append(parameter)
        elif config.name == "muon" and "lm_head" not in name and "router" not in name:
            hidden.append(parameter)
        else:
            decayed.append(parameter)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=True,
        )
    ]
    if hidden:
        optimizers.append(Muon(hidden, config.learning_rate, config.momentum, config.weight_decay))
    return optimizers


def set_learning_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """Use `rate` in the next step, in every group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
