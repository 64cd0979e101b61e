"""Reading and writing the weights of a Hugging Face folder: safetensors, in one file or in shards with an index."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from longcat.artifact import write_json
from longcat.config import ModelConfig
from longcat.config.config_json import CONFIG, read_config, to_config_json
from longcat.errors import DataError
from longcat.interchange import quantised
from longcat.interchange.damage import damage_of
from longcat.interchange.state_dict_map import HEAD, MTP, StoredTensor, left_out_kind, state_dict_map
from longcat.model.transformer import LongcatModel
from longcat.unpacking import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 4 * 10**9
"""Size of a written file, unless a single tensor is larger."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SAFETENSORS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_STORED = {name: dtype for dtype, name in _SAFETENSORS.items()} | {"F64": torch.float32}

StoredType = torch.dtype | Callable[[StoredTensor], torch.dtype]
"""Type of all tensors of a folder, or of each."""


class HuggingFaceFolder:
    """Weights of a folder, opened a tensor at a time.

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
        shape = self._shape(name)
        if shape != tensor.shape:
            raise DataError(f"{self.directory}: {name} has shape {list(shape)}, expected {list(tensor.shape)}")
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
        names = (tensor.name, *tensor.aliases)
        if tensor.name == HEAD and self.stated.tied:
            names = (HEAD, self._embedding.name, *self._embedding.aliases)
        for name in names:
            if name in self._files:
                return name
        raise DataError(f"{self.directory}: {tensor.name} is missing")

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
    read: Callable[[StoredTensor], Tensor],
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
    directory.mkdir(parents=True, exist_ok=True)
    shards: list[list[tuple[StoredTensor, torch.dtype]]] = [[]]
    total, filled = 0, 0
    numbers: Counter[torch.dtype] = Counter()
    for tensor in (*state_dict_map(config), *extra):
        stored = _stored_as(tensor, dtype)
        size = math.prod(tensor.shape) * stored.itemsize
        numbers[stored] += math.prod(tensor.shape)
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((tensor, stored))
        filled, total = filled + size, total + size
    main_type = str(numbers.most_common(1)[0][0]).removeprefix("torch.")
    config_json = to_config_json(config, main_type)  # before anything large is written: the model may not be settled
    files: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(directory / name, tensors, read)
        files |= dict.fromkeys((tensor.name for tensor, _ in tensors), name)
    if len(shards) > 1:
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": files})
    write_json(directory / CONFIG, config_json)


def _write_shard(
    path: Path, tensors: list[tuple[StoredTensor, torch.dtype]], read: Callable[[StoredTensor], Tensor]
) -> None:
    """Write a safetensors file tensor after tensor: the library wants all of them at once, and copies them.

    Eight bytes with the length of the header, the header in JSON with each tensor's place, the tensors.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor, stored in tensors:
        begin, end = end, end + math.prod(tensor.shape) * stored.itemsize
        header[tensor.name] = {"dtype": _SAFETENSORS[stored], "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor, stored in tensors:
            _write_tensor(stream, tensor, read, stored)


def _write_tensor(
    stream: BinaryIO, tensor: StoredTensor, read: Callable[[StoredTensor], Tensor], stored: torch.dtype
) -> None:
    value = torch.zeros(tensor.shape) if tensor.parameter is None else read(tensor)
    stream.write(value.to(stored).contiguous().view(-1).view(torch.uint8).numpy().data)


def _stored_as(tensor: StoredTensor, dtype: StoredType) -> torch.dtype:
    if not isinstance(dtype, torch.dtype):
        return dtype(tensor)
    return torch.float32 if ".router." in tensor.name else dtype
