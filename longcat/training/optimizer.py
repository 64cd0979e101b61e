"""AdamW with weight decay on matrices only."""

from __future__ import annotations

import torch
from torch import nn

from longcat.config import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over two groups: projections and experts decay; embeddings, norms and biases do not."""
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        matrix = parameter.dim() > 1 and "embed_tokens" not in name
        (decayed if matrix else free).append(parameter)
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` in the next step, in every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
