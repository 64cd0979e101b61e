"""Reading and writing the weights of a Hugging Face folder: safetensors, in one file or in shards with an index."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from longcat.artifact import write_json
from longcat.config import ModelConfig
from longcat.errors import DataError
from longcat.interchange.config_json import CONFIG, read_config, to_config_json
from longcat.interchange.state_dict_map import StoredTensor, is_ignorable, state_dict_map
from longcat.model.transformer import LongcatModel

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 4 * 10**9
"""Size of a written file, unless a single tensor is larger."""
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class HuggingFaceFolder:
    """Weights of a folder, opened a tensor at a time.

    Raises:
        ConfigError: `config.json` is missing or of another model.
        DataError: weights are missing, unreadable, of another shape, or of something this model does not have.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config, self.dtype = read_config(directory)
        self._open: tuple[str, Any] | None = None
        try:
            if (directory / INDEX).is_file():
                index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
                self._files: dict[str, str] = dict(index["weight_map"])
            else:
                self._files = dict.fromkeys(self._stream(WEIGHTS).keys(), WEIGHTS)
        except _unreadable() as error:
            raise self._error(error) from None
        self.parts = [part for part in state_dict_map(self.config) if not part.repeats]
        self._check()

    def tensor(self, part: StoredTensor) -> Tensor:
        """Read one tensor."""
        name = self._name(part)
        try:
            tensor: Tensor = self._stream(self._files[name]).get_tensor(name)
        except _unreadable() as error:
            raise self._error(error) from None
        return tensor

    def _check(self) -> None:
        """Compare names and shapes before anything large is read."""
        names = set()
        for part in self.parts:
            name = self._name(part)
            names.add(name)
            try:
                shape = tuple(self._stream(self._files[name]).get_slice(name).get_shape())
            except _unreadable() as error:
                raise self._error(error) from None
            if shape != part.shape:
                raise DataError(f"{self.directory}: {name} has shape {list(shape)}, expected {list(part.shape)}")
        unknown = sorted(name for name in self._files.keys() - names if not is_ignorable(name, self.config))
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise DataError(f"{self.directory}: {unknown[0]}{more} belong to no part of the model in {CONFIG}")

    def _name(self, part: StoredTensor) -> str:
        for name in (part.name, *part.aliases):
            if name in self._files:
                return name
        raise DataError(f"{self.directory}: {part.name} is missing")

    def _stream(self, file: str) -> Any:
        """The open file; only the one used last stays open."""
        from safetensors import safe_open

        if self._open is None or self._open[0] != file:
            self._open = (file, safe_open(self.directory / file, framework="pt"))
        return self._open[1]

    def _error(self, error: Exception) -> DataError:
        return DataError(f"cannot read the weights in {self.directory}: {error}")


def _unreadable() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    return (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)


def load_huggingface(directory: Path | str, dtype: torch.dtype = torch.float32) -> LongcatModel:
    """Open a Hugging Face folder of a LongCat model, ready for inference on the CPU.

    `load_huggingface(directory).logits(tokens)` gives fp32 logits `[batch, seq, vocab]` for int64 tokens `[batch, seq]`.

    Raises:
        ConfigError: `config.json` is missing or describes another model.
        DataError: weights are missing, unreadable, of another shape, or of something this model does not have.
    """
    folder = HuggingFaceFolder(Path(directory))
    with torch.device("meta"):
        model = LongcatModel(folder.config).to(dtype)
        for layer in model.blocks:
            layer.mlp.router.e_score_correction_bias = layer.mlp.router.e_score_correction_bias.float()
    model.to_empty(device="cpu")
    state = model.state_dict()
    for part in folder.parts:
        assert part.parameter is not None
        state[part.parameter][part.region].copy_(folder.tensor(part))
    return model.eval()


def save_huggingface(model: LongcatModel, directory: Path) -> None:
    """Write a model that is in memory, in fp32."""
    state = model.state_dict()
    write_huggingface(directory, model.config, lambda part: state[str(part.parameter)][part.region])


def write_huggingface(
    directory: Path,
    config: ModelConfig,
    read: Callable[[StoredTensor], Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    extra: Iterable[StoredTensor] = (),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `config.json` and the weights, with no more than one tensor in memory.

    Args:
        directory: is made.
        config: the model.
        read: gives each tensor that lies in the model.
        dtype: of the file; routers' selection bias stays fp32.
        extra: tensors besides those of `state_dict_map`.
        shard_bytes: size of a file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shards: list[list[StoredTensor]] = [[]]
    total, filled = 0, 0
    for part in (*state_dict_map(config), *extra):
        size = math.prod(part.shape) * _stored_as(part, dtype).itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(part)
        filled, total = filled + size, total + size
    files: dict[str, str] = {}
    for number, parts in enumerate(shards, 1):
        name = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(directory / name, parts, read, dtype)
        files |= dict.fromkeys((part.name for part in parts), name)
    if len(shards) > 1:
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": files})
    write_json(directory / CONFIG, to_config_json(config, str(dtype).removeprefix("torch.")))


def _write_shard(
    path: Path, parts: list[StoredTensor], read: Callable[[StoredTensor], Tensor], dtype: torch.dtype
) -> None:
    """Write a safetensors file tensor after tensor: the library wants all of them at once, and copies them.

    Eight bytes with the length of the header, the header in JSON with each tensor's place, the tensors.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for part in parts:
        stored = _stored_as(part, dtype)
        begin, end = end, end + math.prod(part.shape) * stored.itemsize
        header[part.name] = {"dtype": _DTYPES[stored], "shape": part.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for part in parts:
            _write_tensor(stream, part, read, _stored_as(part, dtype))


def _write_tensor(
    stream: BinaryIO, part: StoredTensor, read: Callable[[StoredTensor], Tensor], stored: torch.dtype
) -> None:
    tensor = torch.zeros(part.shape) if part.parameter is None else read(part)
    stream.write(tensor.to(stored).contiguous().view(-1).view(torch.uint8).numpy().data)


def _stored_as(part: StoredTensor, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if part.name.endswith("e_score_correction_bias") else dtype
