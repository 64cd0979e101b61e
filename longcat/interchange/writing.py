"""Writing weights as safetensors, in one file or in shards with an index, with no more than one tensor in memory."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longcat.artifact import write_json
from longcat.interchange.state_dict_map import StoredTensor

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 4 * 10**9
"""Size of a written file, unless a single tensor is larger."""
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""Name of each type in a safetensors file."""

Read = Callable[[StoredTensor], Tensor]
"""Gives a tensor that lies in the model."""
StoredType = torch.dtype | Callable[[StoredTensor], torch.dtype]
"""Type of all tensors of a folder, or of each."""


@dataclass(frozen=True)
class Entry:
    """A tensor of a file, and what it is made of."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: tuple[StoredTensor, ...]
    """Tensors that lie in it one after the other; where their columns do, it is put together in memory."""

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self, read: Read) -> Iterator[Tensor]:
        """Yield its numbers in order."""
        if len(self.parts) == 1 or not any(part.region[:1] == (slice(None),) for part in self.parts):
            for part in self.parts:
                yield torch.zeros(part.shape) if part.parameter is None else read(part)
            return
        whole = torch.empty(self.shape, dtype=self.dtype)
        for part in self.parts:
            whole[part.region] = read(part).to(self.dtype)
        yield whole


def stored_as(tensor: StoredTensor, dtype: StoredType) -> torch.dtype:
    """Return the type that a tensor is written in: routers stay fp32 where one type is given for all."""
    if not isinstance(dtype, torch.dtype):
        return dtype(tensor)
    return torch.float32 if ".router." in tensor.name else dtype


def type_of_most(entries: Iterable[Entry]) -> str:
    """Name the type of most of the numbers."""
    numbers: Counter[torch.dtype] = Counter()
    for entry in entries:
        numbers[entry.dtype] += math.prod(entry.shape)
    return str(numbers.most_common(1)[0][0]).removeprefix("torch.")


def write_weights(
    directory: Path, entries: Iterable[Entry], read: Read, shard_bytes: int = SHARD_BYTES, program: str = "pt"
) -> None:
    """Write weight files, and an index where there are several.

    Args:
        directory: is made.
        entries: the tensors, in order.
        read: gives each tensor that lies in the model.
        shard_bytes: size of a file.
        program: that the files are for, by its name in their metadata.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shards: list[list[Entry]] = [[]]
    total, filled = 0, 0
    for entry in entries:
        if shards[-1] and filled + entry.size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled, total = filled + entry.size, total + entry.size
    files: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(directory / name, shard, read, program)
        files |= dict.fromkeys((entry.name for entry in shard), name)
    if len(shards) > 1:
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": files})


def _write_shard(path: Path, entries: list[Entry], read: Read, program: str) -> None:
    """Write a safetensors file tensor after tensor: the library wants all of them at once, and copies them.

    Eight bytes with the length of the header, the header in JSON with each tensor's place, the tensors.
    """
    header: dict[str, Any] = {"__metadata__": {"format": program}}
    end = 0
    for entry in entries:
        begin, end = end, end + entry.size
        header[entry.name] = {"dtype": NAMES[entry.dtype], "shape": entry.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            for piece in entry.pieces(read):
                stream.write(piece.to(entry.dtype).contiguous().view(-1).view(torch.uint8).numpy().data)
                del piece  # before the next one is read
