"""What the ranks of test_corruption do: train a step, have a bit flipped somewhere, and look for it."""

import contextlib

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.training.corruption import CorruptionCheck
from longcat.training.trainer import Trainer

EVERYTHING = [
    "model.mtp_num_layers=1",
    "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
]


def rows(place):
    return Batch.of_rows(np.random.default_rng(place).integers(3, 512, (2, 33)))


def flip(tensor, bit=9):
    """Flip a bit of one number, in place."""
    with torch.no_grad():
        part = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        numbers = part.view(torch.int32).view(-1)
        numbers[len(numbers) // 2] ^= 1 << bit


def in_weight(trainer, _):
    flip(dict(trainer.weights.named_parameters())["model.layers.1.mlp.router.classifier.weight"], bit=0)
    return contextlib.nullcontext()


def in_moment(trainer, _):
    flip(trainer.optimizers[0].state[dict(trainer.weights.named_parameters())["model.norm.weight"]]["exp_avg"], bit=0)
    return contextlib.nullcontext()


@contextlib.contextmanager
def in_gradient(trainer, times):
    """Flip a bit of a gradient behind a layer, once or always."""
    done = []

    def changed(gradient):
        if len(done) < times:
            done.append(1)
            gradient = gradient.clone()
            flip(gradient)
        return gradient

    def hook(_module, _inputs, output):
        output[0].register_hook(changed)

    with trainer.parallel.parts[0].blocks[0].register_forward_hook(hook):
        yield
    assert done


def unrepeated(trainer, _):
    """Compute gradients to other bits each time."""

    def changed(gradient):
        return gradient * (1 + 1e-3 * torch.rand(()))

    def hook(_module, _inputs, output):
        if output[0].requires_grad:
            output[0].register_hook(changed)

    trainer.parallel.parts[0].blocks[0].register_forward_hook(hook)
    return contextlib.nullcontext()


@contextlib.contextmanager
def in_buffer(_, times):
    """Flip a bit of what arrives from an all-gather."""
    original, done = dist.all_gather_single, []

    def gather(output, *given, **named):
        work = original(output, *given, **named)
        if len(done) < times and output.dtype == torch.float32 and output.numel() > 1000:
            if work is not None:
                work.wait()
            done.append(1)
            flip(output, bit=20)
        return work

    dist.all_gather_single = gather
    try:
        yield
    finally:
        dist.all_gather_single = original
    assert done


@contextlib.contextmanager
def in_exchange(_, times):
    """Flip a bit of the rows that another process has sent to an expert."""
    original, done = dist.all_to_all_single, []

    def exchange(output, *given, **named):
        work = original(output, *given, **named)
        if len(done) < times and output.dtype == torch.float32 and output.numel():
            if work is not None:
                work.wait()
            done.append(1)
            flip(output, bit=20)
        return work

    dist.all_to_all_single = exchange
    try:
        yield
    finally:
        dist.all_to_all_single = original
    assert done


def search(mesh, where, wrong, times=1, settings=(), repeats_bits=True):
    """Train a step, let `where` flip a bit in rank `wrong`, and look; returns what is found then and afterwards."""
    config = load_config("smoke", overrides=["model.num_layers=2", *settings])
    trainer = Trainer(config, mesh, choose("cpu"), "fp32")
    check = CorruptionCheck(trainer, mesh, repeats_bits)
    own = rows(mesh.batch_rank)
    theirs = None if check.neighbour is None else rows(mesh.degrees.batch_rank(check.neighbour))
    trainer.step(0, own)
    before = {name: p.detach().clone() for name, p in trainer.weights.named_parameters()}
    clean = check.check(1, own, theirs)
    assert not clean, clean
    with where(trainer, times) if where and mesh.rank == wrong else contextlib.nullcontext():
        found = check.check(1, own, theirs)
    after = check.check(1, own, theirs)
    assert all(p.grad is None for p in trainer.weights.parameters())
    if where not in (in_weight, in_moment):
        for name, p in trainer.weights.named_parameters():
            assert torch.equal(p.to_local() if isinstance(p, DTensor) else p, _local(before[name])), name
        assert not trainer.step(1, own).skipped
    return check.neighbour, found, after


def _local(tensor):
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
