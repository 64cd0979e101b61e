"""A checkpoint that a user names instead of having one trained: as an artifact, and the configuration that fits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from longcat.artifact import MANIFEST, Artifact, Workspace, open_artifact
from longcat.config import CorpusConfig, PipelineConfig
from longcat.config.config_json import read_config
from longcat.config.tokenizer_file import TokenizerFile
from longcat.corpus.shards import TokenCorpus
from longcat.corpus.stage import tokenizer_of_documents
from longcat.corpus.tokenizer import same_tokens
from longcat.errors import ConfigError
from longcat.inference.opening import digest_of, find_checkpoint
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import NAMED, model_folder, tokenizer_of
from longcat.interchange.folder import HuggingFaceFolder
from longcat.interchange.state_dict_map import count_parameters


def given_checkpoint(what: str | Path, workspace: Workspace, named: str = NAMED) -> Artifact[CheckpointFacts]:
    """Return a checkpoint as an artifact; a Hugging Face folder of others stays where it is, named by its content.

    Args:
        what: folder of a checkpoint artifact or of a Hugging Face model, or a digest in the workspace, or its beginning.
        workspace: where digests are looked for; it remembers the hashes of files.
        named: the option or setting that it was given by, for errors.

    Raises:
        ConfigError: there is no such checkpoint, several digests begin so, it has no tokenizer, or it is of another model.
        ArtifactError: it is damaged.
        DataError: its weights are unreadable.
    """
    path = find_checkpoint(what, workspace, named)
    tokenizer_of(path, named)
    if (path / MANIFEST).is_file():
        return open_artifact(path, CheckpointFacts, workspace.sha256)
    folder = HuggingFaceFolder(path)
    facts = CheckpointFacts(
        parameters=count_parameters(folder.tensors), imported_from=path.name, notes=tuple(folder.notes)
    )
    digest = digest_of(path, workspace.sha256)
    workspace.hashes.save()
    manifest = {"kind": "checkpoint", "digest": digest, "parents": [], "facts": facts.model_dump(mode="json")}
    return Artifact("checkpoint", digest, path, manifest, facts)


def with_model_of(config: PipelineConfig, checkpoint: Path, workspace: Workspace) -> PipelineConfig:
    """Return the configuration with the model of a checkpoint, and with its tokenizer unless the corpus has it already.

    Documents of the same corpus that this tokenizer has made are used again, however they came by it.

    Raises:
        ConfigError: the tokenizer has no special token with the id that the model ends a text with, or other settings do
            not go with this model.
        DataError: tokenizer or corpus are missing or unreadable.
    """
    own = tokenizer_of_corpus(config.corpus, workspace)
    same = own is not None and same_tokens(own, tokenizer_of(checkpoint))
    return _fitted(config, checkpoint, {} if same else tokenizer_settings(checkpoint))


def tokenizer_of_corpus(corpus: CorpusConfig, workspace: Workspace) -> Path | None:
    """Return the tokenizer that a corpus names, or that documents made of it came by; None if neither is there.

    Raises:
        DataError: a source is missing.
        ConfigError: a filter or function cannot be used.
    """
    if corpus.tokenizer is None:
        return tokenizer_of_documents(corpus, workspace)
    file = Path(corpus.tokenizer).expanduser()
    return file if file.is_file() else None


def tokenizer_settings(checkpoint: Path) -> dict[str, Any]:
    """Return the settings of the section `corpus` that take the tokenizer of a checkpoint.

    Raises:
        ConfigError: it has no special token with the id that the model ends a text with.
        DataError: it is unreadable.
    """
    given = tokenizer_of(checkpoint)
    file, end = TokenizerFile.read(given), read_config(model_folder(checkpoint)).model.end_of_text
    token = next((name for name, number in file.special_tokens.items() if number == end), None)
    if token is None:
        raise ConfigError(f"{given} has no special token {end}, which the model ends a text with")
    return {"tokenizer": str(given), "end_of_text": token, "vocabulary_size": max(file.vocabulary_size, 259)}


def same_tokenizer(tokens: Path, checkpoint: Path) -> bool:
    """Return whether a `tokens` artifact was made by the tokenizer of a checkpoint."""
    return same_tokens(TokenCorpus.open(tokens).tokenizer_path, tokenizer_of(checkpoint))


def _fitted(config: PipelineConfig, checkpoint: Path, corpus: dict[str, Any]) -> PipelineConfig:
    model = read_config(model_folder(checkpoint)).model
    tree = config.model_dump()
    tree["model"] = model.model_dump()
    tree["corpus"] |= corpus
    tree["corpus"]["sequence_length_tokens"] = min(config.corpus.sequence_length_tokens, model.max_position_embeddings)
    if model.sparse_attention is None:
        tree["training"] |= {"dense_attention_steps": 0, "indexer_warmup_steps": 0}
    try:
        return PipelineConfig.model_validate(tree)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"the configuration does not go with {checkpoint}: {problem}") from None
