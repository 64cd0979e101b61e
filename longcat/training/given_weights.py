"""Weights of a Hugging Face folder for training: each process reads what it keeps, in every layout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor

from longcat.errors import DataError
from longcat.interchange.folder import HuggingFaceFolder
from longcat.interchange.state_dict_map import StoredTensor
from longcat.training.state_reader import bounds_of


def load_weights(folder: Path, model: nn.Module) -> None:
    """Give a model that is spread over processes the weights of a folder, in place. Collective.

    Args:
        folder: of a LongCat model, as `config.json` describes it.
        model: what checkpoints are made of, see `longcat.training.trainer.Trainer.weights`.

    Raises:
        ConfigError: the folder is of another model.
        DataError: its weights are unreadable, or it lacks some of the model's.
    """
    source = HuggingFaceFolder(folder)
    parts = defaultdict[str, list[StoredTensor]](list)
    for tensor in source.tensors:
        parts[str(tensor.parameter)].append(tensor)
    state = get_model_state_dict(model)
    with torch.no_grad():
        for name, value in state.items():
            if name not in parts:
                raise DataError(f"{folder}: no weights for {name}")
            assert isinstance(value, Tensor)
            for tensor in parts[name]:
                _copy(source, tensor, value)
    set_model_state_dict(model, state)


def _copy(source: HuggingFaceFolder, tensor: StoredTensor, parameter: Tensor) -> None:
    """Copy what a process keeps of a tensor into its part of a parameter."""
    own, offsets = parameter, [0] * parameter.dim()
    if isinstance(parameter, DTensor):
        [chunk] = parameter.__create_chunk_list__()  # where checkpoints, too, say that this process' part lies
        own, offsets = parameter.to_local(), list(chunk.offsets)
    stored = bounds_of(tensor, parameter.shape)
    overlap = _overlap(stored, [(begin, begin + size) for begin, size in zip(offsets, own.shape, strict=True)])
    if all(begin < end for begin, end in overlap):
        value = source.tensor(tensor).view([end - begin for begin, end in stored])
        own[_within(overlap, offsets)].copy_(value[_within(overlap, [begin for begin, _ in stored])])


def _overlap(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(max(a, b), min(c, d)) for (a, c), (b, d) in zip(one, other, strict=True)]


def _within(region: Sequence[tuple[int, int]], offsets: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(begin - at, end - at) for (begin, end), at in zip(region, offsets, strict=True))
