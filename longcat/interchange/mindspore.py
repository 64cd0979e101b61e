"""Folders for MindSpore: whole parameters under the names of our state dict, and the programs that use them.

The names are those of the parameters of `Longcat` in data/mindspore/longcat_mindspore.py, so that MindSpore loads the file as it
is. Routed experts and n-gram tables stay stacked, where Hugging Face's folders have a tensor for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import torch

from longcat.artifact import sha256_file, write_json
from longcat.config import ModelConfig
from longcat.config.config_json import CONFIG, to_config_json
from longcat.disk import copy_file
from longcat.errors import ConfigError, DataError
from longcat.interchange.state_dict_map import parameter_shapes, state_dict_map
from longcat.interchange.writing import SHARD_BYTES, Entry, Read, StoredType, stored_as, type_of_most, write_weights
from longcat.provenance import DATA
from longcat.unpacking import read_json

CHECKSUMS = "checksums.json"
PROGRAMS = ("longcat_mindspore.py", "train_mindspore.py")


def refuse(config: ModelConfig) -> None:
    """Refuse a model that the MindSpore program does not compute.

    Raises:
        ConfigError: it has sparse attention.
    """
    if config.sparse_attention is not None:
        raise ConfigError(
            "model.sparse_attention: longcat_mindspore.py computes dense attention only, so a model with an indexer "
            "(LongCat-2.0) cannot be exported to MindSpore; --format huggingface takes it"
        )


def write_mindspore(
    directory: Path,
    config: ModelConfig,
    read: Read,
    *,
    dtype: StoredType = torch.float32,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `config.json`, the weights and the programs, with no more than one tensor in memory.

    Args:
        directory: is made.
        config: the model.
        read: gives each tensor that lies in the model.
        dtype: see `longcat.interchange.folder.write_huggingface`.
        shard_bytes: size of a file, unless a single parameter is larger.

    Raises:
        ConfigError: MindSpore cannot hold the model, or not in one type for each parameter.
    """
    refuse(config)
    entries = _entries(config, dtype)
    config_json = to_config_json(config, type_of_most(entries))
    write_weights(directory, entries, read, shard_bytes, program="ms")
    write_json(directory / CONFIG, config_json)
    for name in PROGRAMS:
        copy_file(DATA / "mindspore" / name, directory / name)


def write_checksums(directory: Path) -> None:
    """Write sha256 of each file of a folder but the programs, which a team may change."""
    files = [path for path in sorted(directory.iterdir()) if path.is_file() and path.name not in PROGRAMS]
    write_json(directory / CHECKSUMS, {path.name: sha256_file(path) for path in files})


def check_checksums(directory: Path, found: Mapping[str, str]) -> None:
    """Compare the files of a folder with the checksums that were written with it, if there are any.

    Args:
        directory: the folder.
        found: sha256 of the files that are read, by name.

    Raises:
        DataError: one was changed, or is missing.
    """
    path = directory / CHECKSUMS
    if not path.is_file():
        return
    try:
        expected = {str(name): str(digest) for name, digest in read_json(path).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"cannot read {path}: {error}; export the checkpoint again") from None
    for name, digest in expected.items():
        if not (directory / name).is_file():
            raise DataError(f"{directory / name} is missing, which {CHECKSUMS} names; export the checkpoint again")
        if found.get(name, digest) != digest:
            raise DataError(
                f"{directory / name} was changed since it was written; write a trained model with save() of {PROGRAMS[0]}, "
                f"export the checkpoint again, or delete {CHECKSUMS} if the change is meant"
            )


def _entries(config: ModelConfig, dtype: StoredType) -> list[Entry]:
    shapes = parameter_shapes(config)
    own = (tensor for tensor in state_dict_map(config) if not tensor.duplicate)
    entries = []
    for name, group in groupby(own, lambda tensor: str(tensor.parameter)):
        parts = tuple(group)
        types: dict[torch.dtype, str] = {}
        for part in parts:
            types.setdefault(stored_as(part, dtype), part.name)
        if len(types) > 1:
            found = " and ".join(f"{part} is {str(stored).removeprefix('torch.')}" for stored, part in types.items())
            raise ConfigError(f"MindSpore has {name} in one type, but {found}; name one with --dtype")
        entries.append(Entry(name, shapes[name], next(iter(types)), parts))
    return entries
