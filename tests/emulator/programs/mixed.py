"""Trains the preset smoke's model on two emulated NPUs and two CPU processes, which have unequal parts of each batch.

torchrun --nproc-per-node 4 mixed.py FILE, or one process without torchrun: writes the losses and the weights' digest parts.
"""

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.parallel.mixed import MixedGroups, split_rows
from longcat.training.balance import update_router_bias
from longcat.training.losses import Counts, losses, weighted_total
from longcat.training.optimizer import build_optimizers

KINDS, SPEEDS, STEPS, ROWS = ["npu", "npu", "cpu", "cpu"], [3.0, 3.0, 1.0, 1.0], 4, 9
LIMIT = timedelta(seconds=60)


def main() -> None:
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    alone = processes == 1
    device = choose("cpu" if alone else KINDS[rank]).activate(0 if alone or KINDS[rank] == "cpu" else rank)
    groups = None
    if not alone:
        dist.init_process_group("gloo", timeout=LIMIT)
        groups = MixedGroups(KINDS, device, LIMIT)
    config = load_config("smoke", overrides=["training.precision=fp32"])
    model = LongcatModel(config.model)
    model.initialize(0)
    model.to(device)
    optimizers = build_optimizers(model, config.training.optimizer, torch.float32)
    own = range(ROWS) if alone else split_rows(ROWS, SPEEDS)[rank]
    history = []
    for step in range(STEPS):
        tokens = torch.randint(3, 512, (ROWS, 33), generator=torch.Generator().manual_seed(step))
        counts = Counts(torch.tensor(ROWS * 32), torch.tensor(ROWS * 32))
        model.zero_grad()
        loads = torch.zeros(
            len(model.blocks), model.blocks[0].mlp.router.e_score_correction_bias.numel(), device=device
        )
        total = torch.zeros(1, device=device)
        for row in own:
            here = tokens[row : row + 1].to(device)
            nothing = torch.zeros(1, 32, dtype=torch.long, device=device)
            sums = model.sums(here[:, :-1], here[:, 1:].clone(), "dense", nothing)
            part = weighted_total(losses(sums, Counts(*(count.to(device) for count in counts)), config), config)
            part.backward()
            total += part.detach()
            loads += sums.router_load
        gradients = [of.grad for of in model.parameters() if of.grad is not None]
        if groups is not None:
            groups.sum_in_place([*gradients, loads, total])
        for optimizer in optimizers:
            optimizer.step()
        for layer, load in zip(model.blocks, loads, strict=True):
            update_router_bias(
                layer.mlp.router.e_score_correction_bias, load, config.model, config.training.balance, 0.01
            )
        history.append(total.item())
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    torch.save(
        {"losses": history, "weights": weights, "device": device.type, "rows": len(own)}, f"{sys.argv[1]}.{rank}"
    )
    if not alone:
        dist.barrier()
        dist.destroy_process_group()


main()
