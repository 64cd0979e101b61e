"""A training step whose collectives are watched, and counted by what torch is asked for below all functions in Python."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from longcat.accelerator import choose
from longcat.benchmark.measuring import collectives, profile
from longcat.benchmark.traffic import served, watched
from longcat.corpus.shards import Batch
from longcat.training.trainer import Trainer
from tests.parallel.training import Case

WHOLE = {"_allgather_base_": 0, "_reduce_scatter_base_": 1, "alltoall_base_": 1, "allreduce_": 0, "send": 0}
"""Of torch's own operators: which argument is the whole buffer."""
OPERATORS = {
    "all_gather": "_allgather_base_", "reduce_scatter": "_reduce_scatter_base_", "all_to_all": "alltoall_base_",
    "all_reduce": "allreduce_", "send": "send",
}  # fmt: skip
"""Of each collective, torch's own operator."""


class Counted(TorchDispatchMode):
    """Counts the bytes of every collective by torch's own operator."""

    def __init__(self):
        super().__init__()
        self.bytes = {}

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        name = function.__name__.split(".")[0]
        if function.namespace in ("c10d", "_c10d_functional") and name not in ("barrier", "recv_"):
            whole = arguments[WHOLE[name]]
            size = sum(one.nbytes for one in (whole if isinstance(whole, list | tuple) else [whole]))
            self.bytes[name] = self.bytes.get(name, 0) + size
        return function(*arguments, **(named or {}))


def watch_a_step(mesh, case: Case, sizes=()):
    """Train on a batch, and on another one watched; returns what was seen and, with sizes, what was then measured."""
    trainer = Trainer(case.config, mesh, choose("cpu"), "fp32")
    whole = case.batch(0)
    own = Batch(*(of[mesh.batch_rank :: mesh.batch_world] for of in (whole.tokens, whole.targets, whole.documents)))
    trainer.step(0, own)
    before = trainer.step(0, own).loss
    with Counted() as counted, watched(mesh) as messages:
        trainer.step(0, own)
    after = trainer.step(0, own).loss
    assert after < before, "a watched step trains"
    measured = collectives(list(sizes), messages, mesh, choose("cpu"))
    return {"messages": messages, "counted": counted.bytes, "measured": measured, "served": served(mesh)}


def profile_steps(mesh, case: Case, folder):
    """Train with every second step profiled; returns what `profile` found."""
    trainer = Trainer(case.config, mesh, choose("cpu"), "fp32")
    whole = case.batch(0)
    own = Batch(*(of[mesh.batch_rank :: mesh.batch_world] for of in (whole.tokens, whole.targets, whole.documents)))
    return profile(lambda number: trainer.step(0, own), 0, 2, choose("cpu"), Path(folder), mesh)


def talk_along(mesh):
    """Send to the next stage, gather along an axis of a row, and exchange in a group that only the first stage has."""
    own = torch.arange(6.0) + 6 * mesh.rank
    along, row = mesh.group("pipeline"), mesh.group("tensor")
    stage, stages = dist.get_rank(along), dist.get_world_size(along)
    group = mesh.open("rows of the first stage", (0, 1)) if stage == 0 else None
    with watched(mesh) as messages:
        came = torch.zeros_like(own)
        here = [dist.P2POp(dist.isend, own, group=along, group_peer=stage + 1)] if stage + 1 < stages else []
        there = [dist.P2POp(dist.irecv, came, group=along, group_peer=stage - 1)] if stage else []
        for work in dist.batch_isend_irecv(here + there):
            work.wait()
        whole = torch.empty(6 * dist.get_world_size(row))
        dist.all_gather_into_tensor(whole, own, group=row, async_op=True).wait()
        if group is not None:
            sent = [4, 2] if dist.get_rank(group) == 0 else [1, 5]
            received = [4, 1] if dist.get_rank(group) == 0 else [2, 5]
            dist.all_to_all_single(torch.empty(sum(received)), own, received, sent, group=group)
    return messages, came.tolist(), whole.tolist(), collectives([24], messages, mesh, choose("cpu"))
