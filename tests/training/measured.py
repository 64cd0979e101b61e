"""A step under a layout, observed: what a dry run has to foresee. Routing is balanced, whatever the routers say."""

import numpy as np
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from longcat.accelerator import Accelerator
from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.training.dry_run import AXES
from longcat.training.observation import Observation
from longcat.training.trainer import Trainer

MODEL = ("model.zero_expert_num=4", "corpus.sequence_length_tokens=64")
"""Eight experts, a power of two as the slots are."""
COLLECTIVES = {  # and which tensors count
    "allreduce_": ("all-reduce", 0),
    "_allgather_base_": ("all-gather", 0),
    "_reduce_scatter_base_": ("reduce-scatter", 1),
    "alltoall_base_": ("all-to-all", 1),
    "send": ("send", 0),
}


class Traffic(TorchDispatchMode):
    """Counts bytes by group and collective, as `longcat.parallel.rehearsal` does."""

    def __init__(self):
        super().__init__()
        self.sent = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        namespace, _, name = function.name().partition("::")
        if namespace == "c10d" and name.partition(".")[0] in COLLECTIVES:
            collective, counted = COLLECTIVES[name.partition(".")[0]]
            box = next(
                of for of in arguments if isinstance(of, torch.ScriptObject) and "ProcessGroup" in str(of._type())
            )
            tensors = arguments[counted] if isinstance(arguments[counted], list) else [arguments[counted]]
            of = self.sent.setdefault(dist.ProcessGroup.unbox(box).group_name, {})
            of[collective] = of.get(collective, 0) + sum(one.numel() * one.element_size() for one in tensors)
        return function(*arguments, **(keywords or {}))


def balance(router, _inputs, output):
    """Give every expert as many slots."""
    _, experts, probabilities = output
    slots = torch.arange(experts.numel()) % probabilities.shape[-1]
    experts = slots.view_as(experts)
    return probabilities.gather(1, experts) * router.scale, experts, probabilities


def measure(mesh, settings, memory_bytes, preset="smoke"):
    """The peak, the bytes by axis and the FLOP of a step."""
    config = load_config(preset, overrides=[*MODEL, *settings])
    trainer = Trainer(config, mesh, Accelerator("cpu", "none", 1, memory_bytes, True), "fp32")
    for router in trainer.routers:
        router.register_forward_hook(balance)
    rows = config.training.global_batch_sequences // mesh.batch_world
    shape = rows, config.corpus.sequence_length_tokens
    tokens = np.random.default_rng(mesh.batch_rank).integers(3, 500, shape)
    observed, traffic = Observation(), Traffic()
    states = [of for one in trainer.optimizers for state in one.state.values() for of in state.values()]
    copies = [of for part in trainer.parallel.parts for of in part.parameters()]
    observed.add([*trainer.weights.parameters(), *trainer.weights.buffers(), *copies, *states])
    with observed, traffic:
        trainer.step(0, Batch(tokens, tokens, np.zeros(shape, np.int64)))
    sent = {}
    for group in {id(group): group for group in mesh.groups.values()}.values():
        names = [name for name, of in mesh.groups.items() if of is group]
        if group.size() > 1 and group.group_name in traffic.sent:
            sent[next((name for name in AXES if name in names), names[0])] = traffic.sent[group.group_name]
    return observed.peak_bytes, sent, observed.flops
