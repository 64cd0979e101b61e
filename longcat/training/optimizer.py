"""Which optimizer moves which parameters, and at which fraction of the learning rate."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.config import OptimizerConfig
from longcat.model.scaling import role_of, transfer, width_over_proxy
from longcat.model.transformer import LongcatModel
from longcat.parallel.embedding import SpreadTables
from longcat.parallel.master_weights import MasterWeights
from longcat.parallel.pipeline import United
from longcat.training.lazy_adamw import LazyAdamW
from longcat.training.muon import Holders, Muon, OpenGroup


def build_optimizers(
    model: LongcatModel | MasterWeights | United,
    config: OptimizerConfig,
    compute: torch.dtype = torch.bfloat16,
    tables: SpreadTables | None = None,
    steps: int = 0,
    open_group: OpenGroup | None = None,
    holders: Holders | None = None,
) -> list[torch.optim.Optimizer]:
    """Build AdamW, and Muon where it is asked for; the matrix products of Muon are of the type `compute`.

    | parameters | adamw | muon | decay |
    |---|---|---|---|
    | projections and experts in the layers, the MTP module and the indexers | AdamW | Muon | yes |
    | routers, at `router_learning_rate_fraction` | AdamW | AdamW | yes |
    | head | AdamW | AdamW | yes |
    | word embedding, n-gram tables, norms, biases | AdamW | AdamW | no |

    Each group has its factor on the learning rate, `lr_scale`: the routers' fraction, and with `model.proxy_hidden_size` that
    of the transfer from the proxy. With `lazy_ngram_moments` the `tables` have `LazyAdamW`, made for `steps` steps. A
    parameter without a gradient rests: the step leaves its weights and its state alone. State is there from the
    start, so that a checkpoint of a run in which some parameters have rested holds it too. `open_group` and `holders`: see `Muon`.
    """
    width = width_over_proxy(model.config)
    lazy = tables if config.lazy_ngram_moments else None
    groups: dict[tuple[bool, float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if lazy is not None and parameter is lazy.weight:
            continue
        role = role_of(name, parameter.dim())
        router = ".router." in name
        by_muon = config.name == "muon" and role == "hidden" and not router
        decay = config.weight_decay if role in ("hidden", "unembedding") else 0.0
        scale = transfer(role, width).learning_rate * (config.router_learning_rate_fraction if router else 1.0)
        groups.setdefault((by_muon, decay, scale), []).append(parameter)

    def groups_of(muon: bool) -> list[dict[str, object]]:
        return [
            {"params": parameters, "weight_decay": decay, "lr_scale": scale}
            for (by_muon, decay, scale), parameters in groups.items()
            if by_muon == muon
        ]

    adamw = torch.optim.AdamW(
        groups_of(muon=False),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
    for group in adamw.param_groups:
        for parameter in group["params"]:
            adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if lazy is not None:
        scale = transfer("embedding", width).learning_rate
        optimizers.append(
            LazyAdamW(lazy, config.learning_rate, (config.beta1, config.beta2), config.epsilon, scale, steps)
        )
    if matrices := groups_of(muon=True):
        optimizers.append(
            Muon(matrices, config.learning_rate, config.momentum, config.weight_decay, compute, open_group, holders)
        )
    return optimizers


def set_learning_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate of the next step: `rate` times the factor of each group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
