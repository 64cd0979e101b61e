"""The initial weights of a model that is spread over processes: each one draws what it keeps, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch.distributed.tensor import DTensor

from longcat.model.initialisation import InitialWeights
from longcat.model.transformer import LongcatModel

_MODES: list[AbstractContextManager[object]] = []


@contextmanager
def without_numbers(mode: AbstractContextManager[object]) -> Iterator[None]:
    """Let `draw_weights` make tensors under a mode that gives them shapes only, and draw nothing, in the whole process."""
    _MODES.append(mode)
    try:
        yield
    finally:
        _MODES.pop()


def draw_weights(model: LongcatModel, device: torch.device, seed: int) -> None:
    """Give a model that was built and parallelised on the device `meta` memory, and its initial weights.

    They are those of `LongcatModel.initialize`, in every layout.
    """
    if _MODES:
        with _MODES[-1]:
            model.to_empty(device=device)
        return
    model.to_empty(device=device)
    initial = InitialWeights(model.config, seed)
    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor):
            [own] = parameter.__create_chunk_list__()  # where checkpoints, too, say that this process' part lies
            initial.fill(name, parameter.to_local(), parameter.shape, own.offsets)
        else:
            initial.fill(name, parameter, parameter.shape, [0] * parameter.dim())
    for buffer in model.buffers():
        buffer.zero_()
