"""Opening of any checkpoint for inference: one that was trained here, or a Hugging Face folder of a LongCat model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from tokenizers import Tokenizer

from longcat.accelerator import Accelerator
from longcat.artifact import MANIFEST, Workspace, sha256_file
from longcat.config.config_json import CONFIG
from longcat.corpus.tokenizer import open_tokenizer, vocabulary_size
from longcat.errors import ConfigError, DataError
from longcat.inference.layout import lay_for_few_rows
from longcat.inference.requests import Continuation
from longcat.interchange.checkpoint_folder import NAMED, TOKENIZER_CONFIG, TOKENIZER_FILES, model_folder, tokenizer_of
from longcat.interchange.folder import HuggingFaceFolder, load_huggingface
from longcat.interchange.writing import INDEX
from longcat.model.transformer import LongcatModel
from longcat.unpacking import parse_json, read_bounded

Precision = Literal["fp32", "bf16"]
AskedPrecision = Literal["auto", "fp32", "bf16"]
"""What can be asked for, see `settle_precision`."""
_TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class OpenCheckpoint:
    """A model on its accelerator, and what turns text into its tokens and back."""

    path: Path
    """Checkpoint artifact, or the Hugging Face folder."""
    model: LongcatModel
    """In evaluation mode."""
    tokenizer: Tokenizer
    end_of_text: int
    """Token that ends a text, and that a text without context begins after."""
    chat_template: str | None
    """Jinja template that makes a prompt of messages; None where the folder has none."""
    precision: Precision
    """Type of the weights and of what is computed with them; routers and logits are fp32."""

    @property
    def window(self) -> int:
        """Return the most tokens of a text that the model reads."""
        return self.model.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """Return the device that the model is on."""
        return next(self.model.parameters()).device

    @cached_property
    def digest(self) -> str:
        """Return what the checkpoint is known by: the artifact's digest; otherwise one over the folder's files, which are read."""
        return digest_of(self.path)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text; nothing is added to them."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def continuation(self, context: str, text: str) -> Continuation:
        """Return the request for the likelihood of a text after a context, with tokens as they are in both together.

        Raises:
            DataError: the text adds no token to its context.
        """
        before = self.encode(context)
        after = self.encode(context + text)[len(before) :]
        if not after:
            raise DataError(f"the continuation {text!r:.100} adds no token to its context")
        return Continuation(before, after)


def read_precision(asked: str) -> AskedPrecision:
    """Return a precision that a user has named.

    Raises:
        ConfigError: there is none of this name.
    """
    names = get_args(AskedPrecision)
    if asked not in names:
        raise ConfigError(f"precision {asked!r}: there are {', '.join(names)}")
    return cast(AskedPrecision, asked)


def settle_precision(asked: AskedPrecision, accelerator: Accelerator) -> Precision:
    """Return the precision of inference: `auto` is bf16 on an accelerator that has it, and fp32 on a CPU."""
    if asked != "auto":
        return asked
    return "bf16" if accelerator.kind != "cpu" and accelerator.supports_bf16 else "fp32"


def open_checkpoint(
    what: str | Path,
    workspace: Workspace | None,
    accelerator: Accelerator,
    precision: AskedPrecision = "auto",
    local_rank: int = 0,
) -> OpenCheckpoint:
    """Open a checkpoint on an accelerator.

    Args:
        what: folder of a checkpoint artifact or of a Hugging Face model; or a digest in the workspace, or the first
            characters of one.
        workspace: where digests are looked for; None knows folders only.
        accelerator: to compute on.
        precision: see `settle_precision`.
        local_rank: number of the device on this machine.

    Raises:
        ConfigError: there is no such checkpoint, several digests begin so, it has no tokenizer, or one with more tokens than
            the model, or `config.json` describes another model.
        DataError: weights, tokenizer or template are unreadable.
    """
    path = find_checkpoint(what, workspace)
    file = tokenizer_of(path)
    tokenizer, settled = open_tokenizer(file), settle_precision(precision, accelerator)
    model = load_huggingface(model_folder(path), _TYPES[settled])
    tokens, rows = vocabulary_size(tokenizer), model.config.vocabulary
    if tokens > rows:
        raise ConfigError(
            f"{file} has ids up to {tokens - 1}, and the model in {model_folder(path)} only {rows} tokens"
        )
    if accelerator.kind == "cpu" and settled == "fp32":
        lay_for_few_rows(model)
    return OpenCheckpoint(
        path=path,
        model=model.to(accelerator.activate(local_rank)),
        tokenizer=tokenizer,
        end_of_text=model.config.end_of_text,
        chat_template=read_chat_template(model_folder(path)),
        precision=settled,
    )


def find_checkpoint(what: str | Path, workspace: Workspace | None, named: str = NAMED) -> Path:
    """Return the folder of a checkpoint, see `open_checkpoint`.

    Args:
        what: a folder, or the beginning of a digest.
        workspace: where digests are looked for.
        named: the option or setting that it was given by, for errors.

    Raises:
        ConfigError: there is none, or several digests begin so.
    """
    folder = Path(what).expanduser()
    if folder.is_dir():
        if not (model_folder(folder) / CONFIG).is_file():
            raise ConfigError(
                f"{named}{what}: neither a checkpoint nor a Hugging Face folder, there is no {CONFIG} in {folder}"
            )
        return folder.resolve()
    if workspace is None:
        raise ConfigError(f"{named}{what}: there is no such folder")
    kept = workspace.path / "checkpoint"
    digest = folder.name if folder.parent.resolve() == kept.resolve() else str(what)  # a path that ends early
    is_digest = len(digest) >= 4 and set(digest) <= set("0123456789abcdef")
    found = sorted(path for path in kept.glob(f"{digest}*") if path.is_dir()) if is_digest else []
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{named}{what}: several checkpoints in {kept} begin so: {', '.join(path.name for path in found)}"
        )
    raise ConfigError(
        f"{named}{what}: no such folder, and no checkpoint in {kept} whose digest begins so (4 characters or more)"
    )


def digest_of(path: Path, sha256: Callable[[Path], str] = sha256_file) -> str:
    """Return the digest of a checkpoint artifact, or 128 bits of SHA-256 in hex over the files of a Hugging Face folder.

    Args:
        path: the checkpoint.
        sha256: finds the hash of a file; by default all are read.

    Raises:
        DataError: the folder or its manifest is unreadable.
    """
    manifest = path / MANIFEST
    if manifest.is_file():
        digest = _read_json(manifest).get("digest")
        if isinstance(digest, str):
            return digest
    source = model_folder(path)
    folder = HuggingFaceFolder(source)
    names = [CONFIG, *([INDEX] if folder.has_index else []), *TOKENIZER_FILES]
    files = {*folder.files_read(), *(source / name for name in names if (source / name).is_file())}
    sums = {file.name: sha256(file) for file in sorted(files)}
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:32]


def read_chat_template(folder: Path) -> str | None:
    """Read the chat template of a Hugging Face folder, from a file of its own or from tokenizer_config.json.

    Raises:
        DataError: it is unreadable.
    """
    alone = folder / "chat_template.jinja"
    if alone.is_file():
        try:
            return read_bounded(alone).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {alone}: {error}") from None
    for name in ("chat_template.json", TOKENIZER_CONFIG):
        if (folder / name).is_file():
            found = _read_json(folder / name).get("chat_template")
            if isinstance(found, list):  # several by name
                named = {one["name"]: one["template"] for one in found if isinstance(one, dict) and len(one) == 2}
                found = named.get("default")
            if isinstance(found, str):
                return found
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_bounded(path))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"cannot read {path}: expected an object, found {type(content).__name__}")
    return content
