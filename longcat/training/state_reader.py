"""Reading the model out of a torch distributed checkpoint (`longcat.training.checkpoint`) without the processes that wrote it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem

from longcat.errors import DataError
from longcat.interchange.state_dict_map import StoredTensor
from longcat.training.checkpoint import MODEL
from longcat.training.checkpoint_reader import CheckpointReader


def state_reader(directory: Path) -> Callable[[StoredTensor], Tensor]:
    """Return a function that reads one tensor of the model from what each process has written of it.

    Only one process' share of one parameter is in memory at a time.

    Raises:
        DataError: the checkpoint is unreadable, or lacks a parameter.
    """
    try:
        reader = CheckpointReader(directory)
        metadata = reader.read_metadata()
        reader.set_up_storage_reader(metadata, is_coordinator=True)
    except Exception as error:
        raise DataError(f"cannot read the checkpoint in {directory}: {error}") from None

    @lru_cache(maxsize=1)
    def share(name: str, number: int) -> Tensor:
        stored = metadata.state_dict_metadata[name]
        assert isinstance(stored, TensorStorageMetadata)
        planner = _OneShare(name, stored.chunks[number], stored.properties.dtype)
        try:
            plan = reader.prepare_local_plan(planner.create_local_plan())
            reader.read_data(plan, planner).wait()
        except Exception as error:
            raise DataError(f"cannot read {name} of the checkpoint in {directory}: {error}") from None
        return planner.tensor

    def read(tensor: StoredTensor) -> Tensor:
        name = f"{MODEL}.{tensor.parameter}"
        stored = metadata.state_dict_metadata.get(name)
        if not isinstance(stored, TensorStorageMetadata):
            raise DataError(f"{directory}: no weights for {tensor.parameter}")
        wanted = bounds_of(tensor, stored.size)
        result = torch.empty([end - begin for begin, end in wanted], dtype=stored.properties.dtype)
        for number, chunk in enumerate(stored.chunks):
            # where the share and the wanted region overlap, in numbers of the whole parameter
            overlap = [
                (max(begin, offset), min(end, offset + size))
                for (begin, end), offset, size in zip(wanted, chunk.offsets, chunk.sizes, strict=True)
            ]
            if all(begin < end for begin, end in overlap):
                here = tuple(slice(b - begin, e - begin) for (b, e), (begin, _) in zip(overlap, wanted, strict=True))
                there = tuple(
                    slice(b - offset, e - offset) for (b, e), offset in zip(overlap, chunk.offsets, strict=True)
                )
                result[here] = share(name, number)[there]
        return result.view(tensor.shape)

    return read


class _OneShare(LoadPlanner):
    """Load what one process has written of one parameter, into a tensor of its size."""

    def __init__(self, name: str, chunk: ChunkStorageMetadata, dtype: torch.dtype) -> None:
        self.name, self.chunk = name, chunk
        self.tensor = torch.empty(chunk.sizes, dtype=dtype)

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Do nothing: the share is known from the start."""

    def create_local_plan(self) -> LoadPlan:
        """Ask for the whole share."""
        index, start = MetadataIndex(self.name, self.chunk.offsets), torch.Size([0] * self.tensor.dim())
        item = ReadItem(LoadItemType.TENSOR, index, start, index, start, self.chunk.sizes)
        return LoadPlan([item])

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Leave the plan as it is: one process reads."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """Leave the plan as it is."""
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        """Refuse what is no tensor."""
        raise DataError(f"{self.name} is not stored as a tensor")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """Give the tensor to read into."""
        return self.tensor

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Do nothing: it has been read in place."""


def bounds_of(tensor: StoredTensor, size: torch.Size) -> list[tuple[int, int]]:
    """Return begin and end of a tensor's region in every dimension of its parameter."""
    bounds = [(0, length) for length in size]
    for axis, index in enumerate(tensor.region):
        bounds[axis] = (index, index + 1) if isinstance(index, int) else index.indices(size[axis])[:2]
    return bounds
