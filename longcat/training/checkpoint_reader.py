"""Reading torch's distributed checkpoints without running what they contain.

The format keeps its table of contents, `.metadata`, as a pickle, and every entry that is no tensor as another one. Here the
table is unpickled into objects without behaviour, checked, and only then made into torch's own classes; what is no tensor
is left out of it, so that nobody can ask for it. Tensors themselves are read with `weights_only=True`.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from longcat.errors import DataError

METADATA = ".metadata"
"""Name of the table of contents of a checkpoint."""
_PATHS = {"PosixPath", "WindowsPath"}
_KNOWN = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "MetadataIndex",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
}
"""Names that a table of contents may mention, by module; none of them is looked up."""


class CheckpointReader(FileSystemReader):
    """A reader of checkpoint folders whose table of contents cannot run code.

    `read_metadata` raises a `DataError` for a table that is missing, unreadable, mentions anything but what torch writes,
    points outside the folder, or does not cover every tensor exactly.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the table of contents, tensors only."""
        path = Path(self.path) / METADATA
        try:
            with path.open("rb") as stream:
                metadata = _checked(_Unpickler(stream).load())
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
        except Exception as error:  # a damaged pickle raises anything
            raise DataError(f"{path} is not the table of contents of a checkpoint: {error}") from None
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


@dataclass
class _Place:
    """Where a tensor's bytes lie; what `FileSystemReader` calls storage data."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: None = None


class _Inert:
    """An object of a pickle, of which nothing is kept but what it was made from."""

    state: Any

    def __new__(cls, *_: Any) -> _Inert:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Makes inert objects in place of all classes and functions that are named."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._kinds: dict[str, type[_Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return an inert class for a name of torch's format, or a type of numbers."""
        if module == "torch":
            if name == "Size":
                return tuple
            if isinstance(found := vars(torch).get(name), torch.dtype):
                return found
        if name in _KNOWN.get(module, ()):
            return self._kinds.setdefault(name, type(name, (_Inert,), {}))
        raise DataError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to what is kept elsewhere."""
        raise DataError("it refers to an object outside of it")


def _checked(found: Any) -> Metadata:
    """Make torch's metadata from inert objects."""
    table = _state(found, "Metadata")
    tensors = {
        _is(name, str): _tensor(name, stored)
        for name, stored in _is(table["state_dict_metadata"], dict).items()
        if type(stored).__name__ != "BytesStorageMetadata"
    }
    places: dict[MetadataIndex, _Place] = {}
    for index, info in _is(table["storage_data"], dict).items():
        key, place = _state(index, "MetadataIndex"), _state(info, "_StorageInfo")
        if (name := _is(key["fqn"], str)) not in tensors:
            continue
        file = _is(place["relative_path"], str)
        if Path(file).name != file:
            raise DataError(f"{name} lies in {file!r}, which is no file of the folder")
        if place.get("transform_descriptors"):
            raise DataError(f"{name} is stored in a form of its own")
        offset, length = _sizes((place["offset"], place["length"]))
        places[MetadataIndex(name, _sizes(key["offset"]), key.get("index"))] = _Place(file, offset, length)
    for name, stored in tensors.items():
        for number, chunk in enumerate(stored.chunks):
            if math.prod(chunk.sizes) and MetadataIndex(name, chunk.offsets, number) not in places:
                raise DataError(f"a part of {name} lies nowhere")
    return Metadata(dict(tensors), storage_data=places)


def _tensor(name: str, found: Any) -> TensorStorageMetadata:
    stored = _state(found, "TensorStorageMetadata")
    dtype = _is(_is(_state(stored["properties"], "TensorProperties", tuple), tuple)[0], torch.dtype)
    size, chunks = _sizes(stored["size"]), []
    for part in _is(stored["chunks"], list):
        chunk = _state(part, "ChunkStorageMetadata")
        offsets, sizes = _sizes(chunk["offsets"]), _sizes(chunk["sizes"])
        inside = len(offsets) == len(sizes) == len(size) and all(
            begin + length <= end for begin, length, end in zip(offsets, sizes, size, strict=True)
        )
        if not inside:
            raise DataError(f"a part of {name} lies outside of it")
        chunks.append(ChunkStorageMetadata(offsets, sizes))
    filled = [chunk for chunk in chunks if math.prod(chunk.sizes)]
    if sum(math.prod(chunk.sizes) for chunk in filled) != math.prod(size) or not _apart(filled):
        raise DataError(f"the parts of {name} are not its {math.prod(size):,} numbers, each once")
    return TensorStorageMetadata(TensorProperties(dtype=dtype), size, chunks)


def _apart(chunks: list[ChunkStorageMetadata]) -> bool:
    """Say whether parts don't overlap: some dimension tells them apart, or tells groups apart that others divide further."""
    if len(chunks) < 2:
        return True
    for axis in range(len(chunks[0].offsets)):
        groups: list[list[ChunkStorageMetadata]] = []
        end = -1
        for chunk in sorted(chunks, key=lambda chunk: chunk.offsets[axis]):
            if chunk.offsets[axis] >= end:
                groups.append([])
            groups[-1].append(chunk)
            end = max(end, chunk.offsets[axis] + chunk.sizes[axis])
        if len(groups) > 1:
            return all(_apart(group) for group in groups)
    return False


def _state(found: Any, kind: str, form: type = dict) -> Any:
    """Return what an inert object of a kind was made from."""
    if not isinstance(found, _Inert) or type(found).__name__ != kind:
        raise DataError(f"there is a {type(found).__name__} in place of a {kind}")
    return _is(found.state, form)


def _is(value: Any, form: type) -> Any:
    if not isinstance(value, form):
        raise DataError(f"there is a {type(value).__name__} in place of a {form.__name__}")
    return value


def _sizes(found: Any) -> torch.Size:
    """Return numbers that are not negative."""
    if not all(isinstance(number, int) and number >= 0 for number in _is(found, tuple)):
        raise DataError(f"{found} are no sizes")
    return torch.Size(found)
