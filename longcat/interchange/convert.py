"""Whole folders: a checkpoint of ours for others, and one of others' for us."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from longcat.artifact import Artifact, Recipe, Workspace, disk_errors, sha256_file, write_json
from longcat.errors import ConfigError, StorageError
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.config_json import BOS_TOKEN_ID, CONFIG, EOS_TOKEN_ID
from longcat.interchange.folder import INDEX, SHARD_BYTES, WEIGHTS, Folder, write_huggingface
from longcat.interchange.layout import count_parameters, phantoms
from longcat.provenance import code_of

TOKENIZER = "tokenizer.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def model_folder(checkpoint: Path) -> Path:
    """The Hugging Face folder of a checkpoint artifact, or the folder itself."""
    inside = checkpoint / "huggingface"
    return inside if inside.is_dir() else checkpoint


def export(
    checkpoint: Path,
    output: Path,
    *,
    dtype: str | None = None,
    routed_only: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Folder:
    """Write a folder that transformers opens (LongCat-Flash; it has no class for n-grams and sparse attention yet).

    Args:
        checkpoint: artifact or Hugging Face folder.
        output: is made; appears only when it is whole.
        dtype: `float32`, `bfloat16` or `float16`; as it is when none.
        routed_only: leave out the matrices of zero-computation experts, which transformers' loader asks for but nothing
            uses; Meituan's folders have none.
        shard_bytes: size of a file.

    Raises:
        ConfigError: `dtype` is unknown, or the model has no Hugging Face form.
        DataError: the checkpoint is damaged.
        StorageError: the output is there already, or the disk is full.
    """
    source = model_folder(checkpoint)
    folder = Folder(source)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise StorageError(f"{output} is there already and is not empty; choose another --output")
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    extra = [] if routed_only or folder.config.ngram is not None else phantoms(folder.config)
    try:
        with disk_errors(output):
            write_huggingface(
                temporary,
                folder.config,
                folder.tensor,
                dtype=_dtype(dtype or folder.dtype),
                extra=extra,
                shard_bytes=shard_bytes,
            )
            if (source / TOKENIZER).is_file():
                shutil.copy2(source / TOKENIZER, temporary)
                write_json(temporary / "tokenizer_config.json", _tokenizer_config(folder, source / TOKENIZER))
            if output.exists():
                output.rmdir()
            os.rename(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def import_folder(source: Path, workspace: Workspace, *, shard_bytes: int = SHARD_BYTES) -> Artifact[CheckpointFacts]:
    """Make a checkpoint artifact of somebody's Hugging Face folder, which may hold routed experts only.

    Raises:
        ConfigError: `config.json` is missing or describes another model.
        DataError: weights are missing, unreadable, of another shape, or of something this model does not have.
        StorageError: the disk is full.
    """
    folder = Folder(source)
    dtype = _dtype(folder.dtype)
    files = [source / name for name in (CONFIG, INDEX, WEIGHTS, TOKENIZER) if (source / name).is_file()]
    files += sorted(source.glob("model-*.safetensors"))
    recipe = Recipe(
        kind="checkpoint",
        facts=CheckpointFacts,
        version=2,
        identity={"imported": {path.name: sha256_file(path) for path in files}},
        sources=code_of(__name__),
    )

    def build(directory: Path) -> CheckpointFacts:
        target = directory / "huggingface"
        write_huggingface(target, folder.config, folder.tensor, dtype=dtype, shard_bytes=shard_bytes)
        if (source / TOKENIZER).is_file():
            shutil.copy2(source / TOKENIZER, target)
        return CheckpointFacts(parameters=count_parameters(folder.parts), imported_from=source.name)

    return workspace.materialize(recipe, build)


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r} is not supported; there are {', '.join(DTYPES)}")
    return DTYPES[name]


def _tokenizer_config(folder: Folder, path: Path) -> dict[str, Any]:
    """What transformers' AutoTokenizer needs beside tokenizer.json."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.id_to_token(BOS_TOKEN_ID),
        "eos_token": tokenizer.id_to_token(EOS_TOKEN_ID),
        "model_max_length": folder.config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
