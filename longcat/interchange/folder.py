"""The weights of a Hugging Face folder, or of one with stacked tensors: safetensors, in one file or in shards with an index."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longcat.artifact import write_json
from longcat.config import ModelConfig
from longcat.config.config_json import CONFIG, read_config, to_config_json
from longcat.errors import DataError
from longcat.interchange import quantised
from longcat.interchange.damage import damage_of
from longcat.interchange.state_dict_map import (
    HEAD,
    MTP,
    Region,
    StoredTensor,
    left_out_kind,
    parameter_shapes,
    state_dict_map,
)
from longcat.interchange.writing import (
    INDEX,
    NAMES,
    SHARD_BYTES,
    WEIGHTS,
    Entry,
    Read,
    StoredType,
    stored_as,
    type_of_most,
    write_weights,
)
from longcat.model.transformer import LongcatModel
from longcat.unpacking import read_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STORED = {name: dtype for dtype, name in NAMES.items()} | {"F64": torch.float32}


class HuggingFaceFolder:
    """Weights of a folder, opened a tensor at a time.

    A folder for MindSpore has whole parameters, under the names of our state dict, and its tensors are read out of these.

    Raises:
        ConfigError: `config.json` is missing, of another model, or says something this model does not do.
        DataError: weights are missing, unreadable, of another shape, quantised in a way that is not read, or of something
            this model does not have.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stated = read_config(directory)
        self._open: tuple[str, Any] | None = None
        try:
            self.has_index = (directory / INDEX).is_file()
            if self.has_index:
                index = read_json(directory / INDEX)
                self._files: dict[str, str] = dict(index["weight_map"])
            else:
                self._files = dict.fromkeys(self._stream(WEIGHTS).keys(), WEIGHTS)
            outside = sorted(file for file in self._files.values() if Path(file).name != file)
        except _unreadable() as error:
            raise self._error(error) from None
        if outside:
            raise DataError(f"{directory / INDEX}: {outside[0]!r} is not the name of a file in the folder")
        quantised.refuse_packed(self._files, self.stated.quantization, str(directory))
        self.block = quantised.block_of(self.stated.quantization)
        self.config = self._with_mtp(self.stated.model)
        self.tensors = [tensor for tensor in state_dict_map(self.config) if not tensor.duplicate]
        self._embedding = next(tensor for tensor in self.tensors if tensor.name == "model.embed_tokens.weight")
        self.stacked = any(name.endswith(".experts.gate_up_proj") for name in self._files)
        """Whether it has whole parameters, where Hugging Face's have a tensor for each expert and n-gram branch."""
        self._whole_shapes = parameter_shapes(self.config) if self.stacked else {}
        self._types: dict[str, str] = {}
        self._scales: set[str] = set()
        for tensor in self.tensors:
            self._check(tensor)
        self.notes = (*self.stated.notes, *self._left_out())

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type of most of the stored numbers."""
        numbers: Counter[torch.dtype] = Counter()
        for tensor in self.tensors:
            numbers[self.stored_type(tensor)] += math.prod(tensor.shape)
        return numbers.most_common(1)[0][0]

    def stored_type(self, tensor: StoredTensor) -> torch.dtype:
        """The type of one tensor; of a quantised one, that of the weights in config.json."""
        if tensor.parameter is None:
            return self.dtype
        stored = self._types[self._name(tensor)]
        if stored in quantised.QUANTISED:
            return DTYPES.get(self.stated.dtype, torch.bfloat16)
        return _STORED[stored]

    def files_read(self) -> list[Path]:
        """The files that the model's tensors lie in."""
        names = {self._name(tensor) for tensor in self.tensors} | self._scales
        return [self.directory / file for file in sorted({self._files[name] for name in names})]

    def tensor(self, tensor: StoredTensor) -> Tensor:
        """Read one tensor, made whole if it is quantised."""
        name = self._name(tensor)
        if self.stacked:
            return self._read_part(name, tensor.region)
        value = self._read(name)
        if self._types[name] not in quantised.QUANTISED:
            return value
        scale = self._read(str(quantised.scale_of(name, self._files)))
        return quantised.dequantise(value, scale, self.block, self.stored_type(tensor))

    def _with_mtp(self, config: ModelConfig) -> ModelConfig:
        """Add multi-token prediction where the folder has it and config.json does not say so, as Flash's and Lite's."""
        if config.mtp_num_layers or not any(name.startswith(MTP) for name in self._files):
            return config
        found = config.model_copy(update={"mtp_num_layers": self.stated.nextn_layers or 1})
        module = [t for t in state_dict_map(found) if t.name.startswith(MTP) and not t.duplicate]
        whole = all(t.name in self._files and self._shape(t.name) == t.shape for t in module)
        return found if whole else config

    def _check(self, tensor: StoredTensor) -> None:
        """Compare a tensor's shape and type before anything large is read."""
        name = self._name(tensor)
        if self.stacked and name in self._types:
            return
        shape, expected = self._shape(name), self._whole_shapes[name] if self.stacked else tensor.shape
        if shape != expected:
            raise DataError(f"{self.directory}: {name} has shape {list(shape)}, expected {list(expected)}")
        stored = str(self._slice(name).get_dtype())
        self._types[name] = stored
        if stored in _STORED:
            return
        how = quantised.method(self.stated.quantization)
        if stored not in quantised.QUANTISED:
            raise DataError(f"{self.directory}: {how} checkpoints are not supported ({name} is stored as {stored})")
        scale, offset = quantised.scale_of(name, self._files), quantised.offset_of(name, self._files)
        if scale is None:
            raise DataError(f"{self.directory}: {how}: {name} is stored as {stored} without {name}_scale_inv or _scale")
        quantised.check_scale(name, shape, self._shape(scale), self.block, str(self.directory))
        self._scales.add(scale)
        if offset is not None:
            self._scales.add(offset)
            if self._read(offset).any():
                raise DataError(f"{self.directory}: {how} checkpoints are not supported ({offset} is not 0)")

    def _left_out(self) -> list[str]:
        """Say in a line for each kind which tensors are not read.

        Raises:
            DataError: some are of a part that this model does not have.
        """
        read = {self._name(tensor) for tensor in self.tensors} | self._scales
        kinds: dict[str, list[str]] = {}
        unknown = []
        for name in sorted(self._files.keys() - read):
            kind = left_out_kind(name, self.config)
            if name == f"{MTP}embed_tokens.weight" and self.config.mtp_num_layers and self._copies_embedding(name):
                continue
            if kind is None and self._scales and quantised.is_activation_scale(name):
                kind = "scales of quantised activations"
            if kind is None:
                unknown.append(name)
            else:
                kinds.setdefault(kind, []).append(name)
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise DataError(f"{self.directory}: {unknown[0]}{more} belong to no part of the model in {CONFIG}")
        return [f"left out: {len(names)} {kind} (such as {names[0]})" for kind, names in kinds.items()]

    def _copies_embedding(self, name: str) -> bool:
        """Whether a tensor holds the word embedding again; compared some rows at a time."""
        embedding = self._name(self._embedding)
        shape = self._shape(embedding)
        if self._shape(name) != shape:
            return False
        step = 8192
        return all(
            torch.equal(self._slice(name)[row : row + step].float(), self._slice(embedding)[row : row + step].float())
            for row in range(0, shape[0], step)
        )

    def _name(self, tensor: StoredTensor) -> str:
        """The name under which the folder has a tensor."""
        if tensor.duplicate:
            tensor = self._embedding
        names = (str(tensor.parameter),) if self.stacked else (tensor.name, *tensor.aliases)
        if tensor.name == HEAD and self.stated.tied:
            names = (HEAD, self._embedding.name, *self._embedding.aliases)
        for name in names:
            if name in self._files:
                return name
        raise DataError(f"{self.directory}: {names[0]} is missing")

    def _shape(self, name: str) -> tuple[int, ...]:
        try:
            return tuple(self._slice(name).get_shape())
        except _unreadable() as error:
            raise self._error(error) from None

    def _slice(self, name: str) -> Any:
        try:
            return self._stream(self._files[name]).get_slice(name)
        except _unreadable() as error:
            raise self._error(error) from None

    def _read(self, name: str) -> Tensor:
        try:
            value: Tensor = self._stream(self._files[name]).get_tensor(name)
        except _unreadable() as error:
            raise self._error(error) from None
        return value

    def _read_part(self, name: str, region: Region) -> Tensor:
        if not region:
            return self._read(name)
        try:
            value: Tensor = self._slice(name)[region]
        except _unreadable() as error:
            raise self._error(error) from None
        return value

    def _stream(self, file: str) -> Any:
        """The open file; only the one used last stays open."""
        from safetensors import SafetensorError, safe_open

        if self._open is None or self._open[0] != file:
            path = self.directory / file
            try:
                self._open = (file, safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise DataError(f"cannot read the weights in {self.directory}: {damage_of(path, error)}") from None
        return self._open[1]

    def _error(self, error: Exception) -> DataError:
        return DataError(f"cannot read the weights in {self.directory}: {error}")


def _unreadable() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    return (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError)


def load_huggingface(directory: Path | str, dtype: torch.dtype = torch.float32) -> LongcatModel:
    """Open a Hugging Face folder of a LongCat model, ready for inference on the CPU.

    `load_huggingface(directory).logits(tokens)` gives fp32 logits `[batch, seq, vocab]` for int64 tokens `[batch, seq]`.
    Routers stay fp32 whatever `dtype` says.

    Raises:
        ConfigError: `config.json` is missing or describes another model.
        DataError: weights are missing, unreadable, of another shape, or of something this model does not have.
    """
    folder = HuggingFaceFolder(Path(directory))
    with torch.device("meta"):
        model = LongcatModel(folder.config).to(dtype)
        for layer in model.blocks:
            layer.mlp.router.float()
    model.to_empty(device="cpu")
    state = model.state_dict()
    for tensor in folder.tensors:
        assert tensor.parameter is not None
        state[tensor.parameter][tensor.region].copy_(folder.tensor(tensor))
    return model.eval()


def save_huggingface(model: LongcatModel, directory: Path) -> None:
    """Write a model that is in memory, in fp32."""
    state = model.state_dict()
    write_huggingface(directory, model.config, lambda tensor: state[str(tensor.parameter)][tensor.region])


def write_huggingface(
    directory: Path,
    config: ModelConfig,
    read: Read,
    *,
    dtype: StoredType = torch.float32,
    extra: Iterable[StoredTensor] = (),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `config.json` and the weights, with no more than one tensor in memory.

    Args:
        directory: is made.
        config: the model.
        read: gives each tensor that lies in the model.
        dtype: of the stored numbers, where routers stay fp32; or a function that says it of each tensor.
        extra: tensors besides those of `state_dict_map`.
        shard_bytes: size of a file.
    """
    tensors = (*state_dict_map(config), *extra)
    entries = [Entry(tensor.name, tensor.shape, stored_as(tensor, dtype), (tensor,)) for tensor in tensors]
    config_json = to_config_json(config, type_of_most(entries))  # before anything large: the model may not be settled
    write_weights(directory, entries, read, shard_bytes)
    write_json(directory / CONFIG, config_json)
