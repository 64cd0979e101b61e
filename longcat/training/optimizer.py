"""Which optimizer moves which parameters, and how much of the learning rate each gets."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.config import OptimizerConfig
from longcat.model.scaling import role_of, transfer, width_over_proxy
from longcat.model.transformer import LongcatModel
from longcat.parallel.master_weights import MasterWeights
from longcat.training.muon import Muon


def build_optimizers(
    model: LongcatModel | MasterWeights, config: OptimizerConfig, compute: torch.dtype = torch.bfloat16
) -> list[torch.optim.Optimizer]:
    """One optimizer, or two; Muon's matrix products are of the type `compute`, as the model's are.

    | parameters | adamw | muon | decay |
    |---|---|---|---|
    | projections and experts in the layers, the MTP module and the indexers | AdamW | Muon | yes |
    | router, head | AdamW | AdamW | yes |
    | word embedding, n-gram tables, norms, biases | AdamW | AdamW | no |

    With `model.proxy_hidden_size` each group has its share of the learning rate, `lr_scale`. The indexers' groups carry
    `indexer`, so that they can be moved alone.
    """
    width = width_over_proxy(model.config)
    groups: dict[tuple[bool, float, float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        role = role_of(name, parameter.dim())
        by_muon = config.name == "muon" and role == "hidden" and "router" not in name
        decay = config.weight_decay if role in ("hidden", "unembedding") else 0.0
        key = by_muon, decay, transfer(role, width).learning_rate, ".indexer." in name
        groups.setdefault(key, []).append(parameter)

    def of(muon: bool) -> list[dict[str, object]]:
        return [
            {"params": parameters, "weight_decay": decay, "lr_scale": scale, "indexer": indexer}
            for (by_muon, decay, scale, indexer), parameters in groups.items()
            if by_muon == muon
        ]

    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            of(muon=False),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=True,
        )
    ]
    if matrices := of(muon=True):
        optimizers.append(Muon(matrices, config.learning_rate, config.momentum, config.weight_decay, compute))
    return optimizers


def set_learning_rate(optimizers: list[torch.optim.Optimizer], rate: float, *, only_indexer: bool = False) -> None:
    """Use `rate` in the next step, in every group with its share; with `only_indexer` nothing else moves."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 0.0 if only_indexer and not group["indexer"] else rate * group["lr_scale"]
