"""Tensors that ranks hold in parts, put together: one at a time everywhere, or all at once on the first rank."""

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor


def whole_tensor(tensor):
    """A tensor with all its shards, apart from what it is a part of; every process that holds a part calls this."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu().clone()


def gather_whole(named, mesh):
    """Tensors by name, with all their shards and those of all stages of a pipeline, on rank 0; nothing on the others.

    What several stages have, as the word embedding, they have alike to the bit; of other copies one is taken.
    """
    return gather_parts({name: part_of(tensor.detach()) for name, tensor in named.items()}, mesh)


def gather_parts(own, mesh):
    """The same of parts by name, each with the shape of the whole and where the part begins in it."""
    parts = [own]
    if mesh.processes > 1:
        parts = [None] * mesh.processes if mesh.rank == 0 else None
        dist.gather_object(own, parts)
    if parts is None:
        return {}
    stages = {}
    for rank, held in enumerate(parts):
        stage = stages.setdefault(rank // mesh.degrees.stage, {})
        for name, (shape, offsets, part) in held.items():
            if name not in stage:
                stage[name] = torch.empty(shape, dtype=part.dtype)
            stage[name][tuple(slice(at, at + size) for at, size in zip(offsets, part.shape, strict=True))] = part
    together = {}
    for stage in stages.values():
        for name, tensor in stage.items():
            assert torch.equal(together.setdefault(name, tensor), tensor), f"copies of {name} differ"
    return together


def part_of(tensor):
    """The shape of the whole, where this process' part begins in it, and the part."""
    if not isinstance(tensor, DTensor):
        return tensor.shape, (0,) * tensor.dim(), tensor.cpu()
    (chunk,) = tensor.__create_chunk_list__()  # as checkpoints ask for it
    return tensor.shape, tuple(chunk.offsets), own_part(tensor).cpu()


def own_part(tensor):
    """What this process holds of a tensor."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
