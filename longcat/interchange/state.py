"""Reading parts of a torch distributed checkpoint (`state/`) without the processes that wrote it."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from longcat.errors import DataError
from longcat.interchange.state_dict_map import StoredTensor


def reader(directory: Path) -> Callable[[StoredTensor], Tensor]:
    """A function that reads one tensor of the model from what each process has written of it.

    Only one process' share of one parameter is in memory at a time.

    Raises:
        DataError: the checkpoint is unreadable, or lacks a parameter.
    """
    try:
        metadata = FileSystemReader(directory).read_metadata()
    except Exception as error:
        raise DataError(f"cannot read the checkpoint in {directory}: {error}") from None

    @lru_cache(maxsize=1)
    def chunk(name: str, offsets: tuple[int, ...]) -> Tensor:
        place = metadata.storage_data[MetadataIndex(name, torch.Size(offsets))]
        with (directory / place.relative_path).open("rb") as stream:
            stream.seek(place.offset)
            data = io.BytesIO(stream.read(place.length))
        loaded: Tensor = torch.load(data, map_location="cpu", weights_only=True)
        return loaded

    def read(part: StoredTensor) -> Tensor:
        name = f"model.{part.parameter}"
        stored = metadata.state_dict_metadata.get(name)
        if not isinstance(stored, TensorStorageMetadata):
            raise DataError(f"{directory}: no weights for {part.parameter}")
        wanted = _bounds(part, stored.size)
        result = torch.empty([end - begin for begin, end in wanted], dtype=stored.properties.dtype)
        for piece in stored.chunks:
            # where the piece and the wanted region overlap, in numbers of the whole parameter
            overlap = [
                (max(begin, offset), min(end, offset + size))
                for (begin, end), offset, size in zip(wanted, piece.offsets, piece.sizes, strict=True)
            ]
            if all(begin < end for begin, end in overlap):
                here = tuple(slice(b - begin, e - begin) for (b, e), (begin, _) in zip(overlap, wanted, strict=True))
                there = tuple(
                    slice(b - offset, e - offset) for (b, e), offset in zip(overlap, piece.offsets, strict=True)
                )
                result[here] = chunk(name, tuple(piece.offsets))[there]
        return result.view(part.shape)

    return read


def _bounds(part: StoredTensor, size: torch.Size) -> list[tuple[int, int]]:
    """Begin and end of a part's region in every dimension of its parameter."""
    bounds = [(0, length) for length in size]
    for axis, index in enumerate(part.region):
        bounds[axis] = (index, index + 1) if isinstance(index, int) else index.indices(size[axis])[:2]
    return bounds
