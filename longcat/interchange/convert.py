"""Whole folders: a checkpoint of ours for other programs, and one of theirs for us."""

from __future__ import annotations

import glob
import os
import shutil
from pathlib import Path

import torch

from longcat.artifact import Artifact, Recipe, Workspace, sha256_file, write_json
from longcat.config import ModelConfig
from longcat.config.config_json import CONFIG
from longcat.disk import check_can_be_folder, copy_file, disk_errors, remove, sync_all, temporary_name
from longcat.errors import ConfigError, StorageError
from longcat.interchange import mindspore
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import (
    CHAT_TEMPLATES,
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TOKENIZER_FILES,
    CheckpointFolder,
    model_folder,
)
from longcat.interchange.folder import DTYPES, HuggingFaceFolder, write_huggingface
from longcat.interchange.state_dict_map import count_parameters, zero_expert_matrices
from longcat.interchange.writing import INDEX, SHARD_BYTES
from longcat.lease import lease
from longcat.provenance import code_of

FORMATS = ("huggingface", "mindspore")
"""Kinds of folders that are written."""
OTHER = "another --output"
"""What to choose where one takes no files."""


def export(
    checkpoint: Path,
    output: Path,
    *,
    format_: str = FORMATS[0],
    dtype: str | None = None,
    routed_only: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> HuggingFaceFolder:
    """Write a folder that transformers opens (LongCat-Flash; it has no class for n-grams and sparse attention yet), or MindSpore.

    Args:
        checkpoint: artifact, Hugging Face folder, or folder for MindSpore.
        output: is made; appears only when it is whole.
        format_: which kind of folder, one of `FORMATS`.
        dtype: `float32`, `bfloat16` or `float16`, for all tensors but the routers', which stay fp32; none keeps the type of
            each tensor.
        routed_only: leave out the matrices of zero-computation experts, which transformers' loader asks for but nothing
            uses; Meituan's folders and those for MindSpore have none.
        shard_bytes: size of a file.

    Raises:
        ConfigError: `format_` or `dtype` is unknown, transformers would make another model of it, or MindSpore cannot hold it.
        DataError: the checkpoint is damaged, or a folder for MindSpore was changed.
        StorageError: the output is there already, or the disk is full.
    """
    if format_ not in FORMATS:
        raise ConfigError(f"--format {format_!r} is not supported; there are {' and '.join(FORMATS)}")
    source = model_folder(checkpoint)
    folder = HuggingFaceFolder(source)
    opened = format_ == "huggingface" and folder.config.ngram is None and folder.config.sparse_attention is None
    if format_ == "mindspore":
        mindspore.refuse(folder.config)
    if opened and not (folder.config.mla_scale_q_lora and folder.config.mla_scale_kv_lora):
        raise ConfigError(
            "model.mla_scale_q_lora and mla_scale_kv_lora: transformers' LongCat-Flash always has both scales"
        )
    stored = folder.stored_type if dtype is None else _dtype(dtype)
    check_can_be_folder(output, "--output")
    if output.exists() and any(output.iterdir()):
        raise StorageError(f"{output} is there already and is not empty; choose {OTHER}")
    if folder.stacked:
        _checked_digests(folder)
    temporary = temporary_name(output)
    extra = zero_expert_matrices(folder.config) if opened and not routed_only else ()
    with disk_errors(output, OTHER):
        output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with disk_errors(output, OTHER), lease(output.with_name(f".{output.name}.lease"), private=False):
            for left in output.parent.glob(f".{glob.escape(output.name)}.*.tmp"):  # of an export that was killed
                remove(left)
            if format_ == "mindspore":
                mindspore.write_mindspore(
                    temporary, folder.config, folder.tensor, dtype=stored, shard_bytes=shard_bytes
                )
            else:
                write_huggingface(
                    temporary, folder.config, folder.tensor, dtype=stored, extra=extra, shard_bytes=shard_bytes
                )
            _copy_tokenizer(source, temporary)
            complete_tokenizer(temporary, folder.config)
            if format_ == "mindspore":
                mindspore.write_checksums(temporary)
            sync_all(temporary)
            if output.exists():
                output.rmdir()
            os.rename(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def import_folder(source: Path, workspace: Workspace, *, shard_bytes: int = SHARD_BYTES) -> Artifact[CheckpointFacts]:
    """Make a checkpoint artifact of somebody's Hugging Face folder, which may hold routed experts only, or one for MindSpore.

    Every tensor keeps its stored type; quantised ones are made whole. The fact `notes` of the artifact says what of the
    folder is not in it.

    Raises:
        ConfigError: `config.json` is missing, describes another model, or says something this model does not do.
        DataError: weights are missing, unreadable, of another shape, or of something this model does not have; or a folder
            for MindSpore was changed.
        StorageError: the disk is full.
    """
    folder = HuggingFaceFolder(source)
    recipe = Recipe(
        kind="checkpoint",
        facts=CheckpointFacts,
        version=3,
        identity={"imported": _checked_digests(folder)},
        sources=code_of(__name__),
    )

    def build(directory: Path) -> CheckpointFacts:
        target = CheckpointFolder(directory).huggingface
        write_huggingface(target, folder.config, folder.tensor, dtype=folder.stored_type, shard_bytes=shard_bytes)
        _copy_tokenizer(source, target)
        return CheckpointFacts(
            parameters=count_parameters(folder.tensors), imported_from=source.name, notes=folder.notes
        )

    return workspace.materialize(recipe, build)


def _checked_digests(folder: HuggingFaceFolder) -> dict[str, str]:
    """Return sha256 of each file that is read, by name; those of a folder for MindSpore are as they were written."""
    source = folder.directory
    files = [source / CONFIG, *([source / INDEX] if folder.has_index else []), *folder.files_read()]
    files += [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    digests = {path.name: sha256_file(path) for path in files}
    if folder.stacked:
        mindspore.check_checksums(source, digests)
    return digests


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r} is not supported; there are {', '.join(DTYPES)}")
    return DTYPES[name]


def _copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            copy_file(source / name, target / name)


def complete_tokenizer(directory: Path, config: ModelConfig) -> None:
    """Write what transformers' AutoTokenizer and `generate` read beside tokenizer.json, where it is not there.

    Special tokens that a text spells out stay text, as in training; a chat template of the folder needs the other way.
    """
    if not (directory / TOKENIZER).is_file():
        return
    begin, end = config.begin_of_text, config.end_of_text
    if not (directory / GENERATION_CONFIG).exists():
        write_json(
            directory / GENERATION_CONFIG, {"_from_model_config": True, "bos_token_id": begin, "eos_token_id": end}
        )
    if (directory / TOKENIZER_CONFIG).exists():
        return
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / TOKENIZER))
    tokens = {"bos_token": tokenizer.id_to_token(begin), "eos_token": tokenizer.id_to_token(end)}
    write_json(
        directory / TOKENIZER_CONFIG,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{name: token for name, token in tokens.items() if token is not None},
            "model_max_length": config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": not any((directory / name).is_file() for name in CHAT_TEMPLATES),
        },
    )
